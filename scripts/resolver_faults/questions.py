"""The clock: all servers are asked the same at the same moments, each question by a client of its own."""

import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench_servers import Fault, dns
from bench_servers.dns import HEADER, encode

from .servers import Forwarder
from .upstreams import A, ADDRESS, IN

# Until the first question, and how much later than its time a question may be asked.
BEGIN_S, SLIP_S = 0.05, 0.2


@dataclass(frozen=True)
class Question:
    at_s: float
    name: str
    kind: int = A
    # Whether its answer counts.
    counts: bool = True


@dataclass(frozen=True)
class Event:
    """Something that happens at a time, in a thread of its own."""

    at_s: float
    act: Callable[[], None]


@dataclass(frozen=True)
class Outcome:
    """What came of one question: the answer, if there was one, and after how long."""

    question: Question
    reply: dns.Reply | None = None
    took_s: float | None = None

    def right(self) -> bool:
        return self.reply == dns.Reply(dns.NOERROR, [ADDRESS])


class Client:
    """Asks one server one question, once, from a port of its own."""

    def __init__(self, server: Forwarder, question: Question):
        self.server, self.question = server, question
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.connect(("127.0.0.1", server.port))
        self.begun = time.monotonic()
        query = HEADER.pack(0x5242, 0x0100, 1, 0, 0, 0) + encode(question.name) + struct.pack("!HH", question.kind, IN)
        self.socket.send(query)

    def outcome(self) -> Outcome | None:
        """What has come; None if that was no answer."""
        try:
            reply = dns.parse(self.socket.recv(dns.REPLY_BYTES_MAX))
        except OSError:
            return None
        return Outcome(self.question, reply, time.monotonic() - self.begun) if reply else None


def ask(
    servers: Sequence[Forwarder], questions: Sequence[Question], events: Sequence[Event], wait_s: float
) -> dict[str, list[Outcome]]:
    """Asks all servers, and waits so long for each answer. Returns what came of those that count, by the servers' names."""
    outcomes: dict[str, list[Outcome]] = {server.name: [] for server in servers}
    due = sorted([*questions, *events], key=lambda it: it.at_s)
    begin = time.monotonic() + BEGIN_S
    open_: dict[Client, float] = {}
    acting: list[Acting] = []
    with selectors.DefaultSelector() as selector:
        while due or open_:
            now = time.monotonic()
            while due and begin + due[0].at_s <= now:
                it = due.pop(0)
                if now - begin - it.at_s > SLIP_S:
                    raise Fault(f"asked {now - begin - it.at_s:.1f} s too late: the machine is too busy")
                if isinstance(it, Event):
                    acting.append(Acting(it))
                    continue
                for server in servers:
                    client = Client(server, it)
                    open_[client] = client.begun + wait_s
                    selector.register(client.socket, selectors.EVENT_READ, client)
            ends = [*open_.values(), *(begin + it.at_s for it in due[:1])]
            ready = [key.data for key, _ in selector.select(max(0.0, min(ends, default=0.0) - time.monotonic()))]
            now = time.monotonic()
            came = {client: outcome for client in ready if (outcome := client.outcome())}
            over = {client: Outcome(client.question) for client, end in open_.items() if end <= now and client not in came}
            for client, outcome in (came | over).items():
                selector.unregister(client.socket)
                client.socket.close()
                del open_[client]
                if client.question.counts:
                    outcomes[client.server.name].append(outcome)
    for it in acting:
        it.join()
    for server in servers:
        server.check_alive()
    return outcomes


class Acting(threading.Thread):
    """An event under way. What goes wrong in it is told when it is waited for."""

    def __init__(self, event: Event):
        super().__init__(daemon=True)
        self.event = event
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.event.act()
        except Exception as error:
            self.error = error

    def join(self, timeout: float | None = None) -> None:
        super().join(timeout)
        if self.error:
            raise self.error
