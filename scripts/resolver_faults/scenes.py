"""The faults. Each scene is a list of cases; a round of a case begins with servers that know nothing, in namespaces of their own."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from bench_servers import Fault

from .questions import Event, Outcome, Question, ask
from .servers import Forwarder, Place, Starter
from .spaces import Space, join
from .upstreams import HTTPS, SILENT, Certificate, Plain, Streams

Outcomes = dict[str, list[Outcome]]
# A client's program waits so long and then asks again, by glibc's default.
STUB_WAIT_S = 5.0
LATE_S = 1.0


@dataclass(frozen=True)
class Asked:
    """What may happen to Redbreast's questions in one round at most."""

    lost: int = 0
    late: int | None = None
    slowest_ms: float | None = None

    def text(self) -> str:
        parts = [f"lost {self.lost}"]
        parts += [] if self.late is None else [f"late {self.late}"]
        parts += [] if self.slowest_ms is None else [f"slowest {self.slowest_ms:.0f} ms"]
        return ", ".join(parts)


@dataclass(frozen=True)
class Case:
    """One fault: how a round of it goes, and after how long a question without an answer is lost."""

    scene: str
    name: str
    what: str
    asked: Asked
    lost_s: float
    run: Callable[[Starter, "Case"], Outcomes]


def names(prefix: str, count: int, every_s: float, from_s: float) -> list[Question]:
    """So many questions for addresses, at steady intervals."""
    return [Question(from_s + i * every_s, f"{prefix}{i}.example") for i in range(count)]


def warming(count: int = 1) -> list[Question]:
    """Questions before the fault, so that all know the upstream and have the connections that they want."""
    return [Question(0.1 * i, f"warm{i}.example", counts=False) for i in range(count)]


def started(stack: ExitStack, servers: Sequence[Forwarder]) -> Sequence[Forwarder]:
    for server in servers:
        stack.enter_context(server)
    return servers


# Twice at an interval for which an upstream could be taken to be down.
SILENT_TYPE = [Question(at_s, f"type{i}.example", HTTPS, counts=False) for i, at_s in enumerate((0.0, 2.0))]
SILENT_NAMES = [Question(at_s, f"{SILENT}{i}-{at_s:.0f}.example", counts=False) for at_s in (0.0, 2.0) for i in range(5)]


def silence(upstreams: int, silent: Sequence[Question]) -> Callable[[Starter, Case], Outcomes]:
    def run(starter: Starter, case: Case) -> Outcomes:
        with ExitStack() as stack:
            space = stack.enter_context(Space())
            stack.enter_context(space.inside())
            scripted = [stack.enter_context(Plain()) for _ in range(upstreams)]
            places = [Place(it.address, it.port) for it in scripted]
            servers = started(stack, starter.forwarders(places, (1, 2, 4)))
            return ask(servers, [*silent, *names("quick", 8, 0.0, 2.6)], [], case.lost_s)

    return run


def restart(starter: Starter, case: Case) -> Outcomes:
    with ExitStack() as stack:
        space = stack.enter_context(Space())
        stack.enter_context(space.inside())
        upstream = stack.enter_context(Plain())
        servers = started(stack, starter.forwarders([Place(upstream.address, upstream.port)], (1, 2)))
        events = [Event(0.9, upstream.away.set), Event(1.05, upstream.away.clear)]
        outcomes = ask(servers, [*warming(), *names("restart", 100, 0.01, 0.5)], events, case.lost_s)
        upstream.check()
        return outcomes


NEAR, GATEWAY, BEYOND = "10.9.0.2", "10.9.0.1", "10.20.0.1"
NEXT = "10.9.7.7"
# How long a host is without an address.
GAP_S = 0.2


@dataclass(frozen=True)
class Wire:
    """The host of the servers, and behind a gateway that of the upstream."""

    near: Space
    far: Space

    def lay(self) -> None:
        join(self.near, self.far)
        self.far.ip(f"addr add {GATEWAY}/16 dev far", f"addr add {BEYOND}/32 dev lo")
        self.near.ip(f"addr add {NEAR}/16 dev near", f"route add default via {GATEWAY}")

    def replace(self) -> None:
        """The only address goes, and the kernel takes back all routes with it; the next one is there at once."""
        self.near.ip(f"addr del {NEAR}/16 dev near", f"addr add {NEXT}/16 dev near", f"route add default via {GATEWAY}")

    def replace_later(self) -> None:
        self.near.ip(f"addr del {NEAR}/16 dev near")
        time.sleep(GAP_S)
        self.near.ip(f"addr add {NEXT}/16 dev near", f"route add default via {GATEWAY}")

    def leave(self) -> None:
        """The old address stays, but nothing comes back to it."""
        self.far.ip(f"route add blackhole {NEAR}/32")
        self.near.ip(f"addr add {NEXT}/16 dev near", f"route replace default via {GATEWAY} src {NEXT}")


def address(change: Callable[[Wire], None], *, tcp: bool = True) -> Callable[[Starter, Case], Outcomes]:
    def run(starter: Starter, case: Case) -> Outcomes:
        with ExitStack() as stack:
            wire = Wire(stack.enter_context(Space()), stack.enter_context(Space()))
            wire.lay()
            with wire.far.inside():
                upstream = stack.enter_context(Plain(BEYOND, tcp=tcp))
            stack.enter_context(wire.near.inside())
            servers = started(stack, starter.forwarders([Place(upstream.address, upstream.port)], (1, 2)))
            event = Event(5.02, lambda: change(wire))
            return ask(servers, [*warming(), *names("address", 400, 0.05, 0.5)], [event], case.lost_s)

    return run


class Secured:
    """An upstream over TLS for each server, so that what happens to the connections of one is not what others do."""

    WORKERS = (1, 2)

    def __init__(self, stack: ExitStack, starter: Starter):
        certificate = Certificate(starter.setting.directory)
        count = len(self.WORKERS) + 1
        self.upstreams = [stack.enter_context(Streams(certificate)) for _ in range(count)]
        places = [Place("127.0.0.1", it.port, certificate.authority) for it in self.upstreams]
        servers = [starter.forwarders([place], self.WORKERS)[i] for i, place in enumerate(places)]
        self.servers = started(stack, servers)

    def close_all(self) -> None:
        for upstream in self.upstreams:
            upstream.close_all()


def stream_silence(starter: Starter, case: Case) -> Outcomes:
    with ExitStack() as stack:
        space = stack.enter_context(Space())
        stack.enter_context(space.inside())
        secured = Secured(stack, starter)

        def drop() -> None:
            streams = [space.streams_to(it.port) for it in secured.upstreams]
            if not all(streams):
                raise Fault("a server has no connection that could go silent")
            space.drop_streams([port for ports in streams for port in ports])

        return ask(secured.servers, [*warming(10), *names("still", 150, 0.1, 1.5)], [Event(3.05, drop)], case.lost_s)


def stream_reset(starter: Starter, case: Case) -> Outcomes:
    with ExitStack() as stack:
        space = stack.enter_context(Space())
        stack.enter_context(space.inside())
        secured = Secured(stack, starter)

        def arm() -> None:
            for upstream in secured.upstreams:
                upstream.resets = 1

        questions = names("reset", 6, 2.0, 1.0)
        # First all connections end, so that each question is the first of a new one; then that one is reset.
        events = [event for it in questions for event in (Event(it.at_s - 0.5, secured.close_all), Event(it.at_s - 0.2, arm))]
        outcomes = ask(secured.servers, questions, events, case.lost_s)
        resets = [upstream.have_been_reset for upstream in secured.upstreams]
        if set(resets) != {len(questions)}:
            raise Fault(f"of the connections of each server {resets} were reset, not {len(questions)}")
        return outcomes


def stream_close(how: str) -> Callable[[Starter, Case], Outcomes]:
    def run(starter: Starter, case: Case) -> Outcomes:
        with ExitStack() as stack:
            space = stack.enter_context(Space())
            stack.enter_context(space.inside())
            secured = Secured(stack, starter)
            for upstream in secured.upstreams:
                upstream.closes = how
            return ask(secured.servers, names("close", 12, 0.0, 0.0), [], case.lost_s)

    return run


TYPE = "answers A and never HTTPS; two HTTPS questions 2 s apart, 0.6 s later eight A questions at once"
CASES = (
    Case("silence", "type, one upstream", f"the upstream {TYPE}", Asked(), 2.0, silence(1, SILENT_TYPE)),
    Case("silence", "type, two upstreams", f"each of two {TYPE}", Asked(), 2.0, silence(2, SILENT_TYPE)),
    Case("silence", "names", "the upstream never answers some names; twice five of these 2 s apart, 0.6 s later eight others at once",
         Asked(), 2.0, silence(1, SILENT_NAMES)),
    Case("restart", "away for 0.15 s", "the upstream's port is closed for 0.15 s (ICMP), a question every 10 ms, 100 in all",
         Asked(slowest_ms=300), 2.0, restart),
    Case("address", "gone", "this host's only address is replaced, and the default route follows; a question every 50 ms for "
         "20 s", Asked(late=2), STUB_WAIT_S, address(Wire.replace)),
    Case("address", "gone for 0.2 s", "the same, but the next address comes 0.2 s later: the kernel cannot send meanwhile",
         Asked(late=2), STUB_WAIT_S, address(Wire.replace_later)),
    Case("address", "not routed", "another address is used from now on; nothing comes back to the old one, which stays",
         Asked(late=2), STUB_WAIT_S, address(Wire.leave)),
    Case("address", "not routed, no TCP", "the same, and the upstream answers over UDP alone", Asked(late=2), STUB_WAIT_S,
         address(Wire.leave, tcp=False)),
    Case("dot-silence", "all connections", "DoT: all packets of the connections that there are get lost, new ones work; 150 questions "
         "100 ms apart", Asked(), STUB_WAIT_S, stream_silence),
    Case("dot-reset", "first question", "DoT: connections are closed, the next one is reset (RST) at its first question; six times",
         Asked(), STUB_WAIT_S, stream_reset),
    Case("dot-close", "cleanly", "DoT: the upstream closes each connection after one answer, reading on (close_notify, FIN); 12 "
         "questions at once", Asked(), STUB_WAIT_S, stream_close(Streams.CLOSE_CLEANLY)),
    Case("dot-close", "at once", "DoT: the same, but close(2) with questions unread, which sends RST", Asked(), STUB_WAIT_S,
         stream_close(Streams.CLOSE_AT_ONCE)),
)
SCENES = list(dict.fromkeys(case.scene for case in CASES))
