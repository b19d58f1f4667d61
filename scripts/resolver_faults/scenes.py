"""The faults. Each scene is a list of cases; a round of a case begins with servers that know nothing, in namespaces of their own."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from bench_servers import Fault

from .questions import Event, Outcome, Question, ask
from .servers import Forwarder, Place, Starter
from .spaces import Space, join
from .upstreams import HTTPS, LOOPBACK, SILENT, Certificate, Plain, Streams

Outcomes = dict[str, list[Outcome]]
# A client's program waits so long and then asks again, by glibc's default.
STUB_WAIT_S = 5.0
LATE_S = 1.0
# Redbreast's, but where more may matter.
WORKERS = (1, 2)


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


def place(upstream: Plain | Streams) -> Place:
    authority = upstream.authority if isinstance(upstream, Streams) else None
    return Place(upstream.address, upstream.port, authority)


# Twice at an interval for which an upstream could be taken to be down.
SILENT_TYPE = [Question(at_s, f"type{i}.example", HTTPS, counts=False) for i, at_s in enumerate((0.0, 2.0))]
SILENT_NAMES = [Question(at_s, f"{SILENT}{i}-{at_s:.0f}.example", counts=False) for at_s in (0.0, 2.0) for i in range(5)]


def silence(upstreams: int, silent: Sequence[Question]) -> Callable[[Starter, Case], Outcomes]:
    def run(starter: Starter, case: Case) -> Outcomes:
        with ExitStack() as stack:
            space = stack.enter_context(Space())
            stack.enter_context(space.inside())
            scripted = [stack.enter_context(Plain()) for _ in range(upstreams)]
            servers = started(stack, starter.forwarders([[place(it) for it in scripted]], (1, 2, 4)))
            return ask(servers, [*silent, *names("quick", 8, 0.0, 2.6)], [], case.lost_s)

    return run


def restart(starter: Starter, case: Case) -> Outcomes:
    with ExitStack() as stack:
        space = stack.enter_context(Space())
        stack.enter_context(space.inside())
        upstream = stack.enter_context(Plain())
        servers = started(stack, starter.forwarders([[place(upstream)]], WORKERS))
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


def address(change: Callable[[Wire], None], *, tls: bool = False, tcp: bool = True) -> Callable[[Starter, Case], Outcomes]:
    def run(starter: Starter, case: Case) -> Outcomes:
        with ExitStack() as stack:
            wire = Wire(stack.enter_context(Space()), stack.enter_context(Space()))
            wire.lay()
            if not tcp:
                wire.far.drop("meta l4proto tcp")
            with wire.far.inside():
                upstreams = secured(stack, starter, BEYOND) if tls else [stack.enter_context(Plain(BEYOND))]
            stack.enter_context(wire.near.inside())
            servers = started(stack, starter.forwarders([[place(it)] for it in upstreams], WORKERS))
            event = Event(5.02, lambda: change(wire))
            return ask(servers, [*warming(5), *names("address", 400, 0.05, 0.5)], [event], case.lost_s)

    return run


def secured(stack: ExitStack, starter: Starter, address: str = LOOPBACK) -> list[Streams]:
    """An upstream over TLS for each of the servers, so that what happens to the connections of one is not what others do."""
    certificate = Certificate(starter.setting.directory)
    return [stack.enter_context(Streams(certificate, address)) for _ in range(len(WORKERS) + 1)]


def over_streams(
    happening: Callable[[Space, list[Streams]], list[Event]], questions: list[Question]
) -> Callable[[Starter, Case], Outcomes]:
    """Questions to servers that ask over TLS on this host, and what happens meanwhile."""

    def run(starter: Starter, case: Case) -> Outcomes:
        with ExitStack() as stack:
            space = stack.enter_context(Space())
            stack.enter_context(space.inside())
            upstreams = secured(stack, starter)
            servers = started(stack, starter.forwarders([[place(it)] for it in upstreams], WORKERS))
            return ask(servers, questions, happening(space, upstreams), case.lost_s)

    return run


def going_silent(space: Space, upstreams: list[Streams]) -> list[Event]:
    def drop() -> None:
        streams = [space.streams_to(it.port) for it in upstreams]
        if not all(streams):
            raise Fault("a server has no connection that could go silent")
        ports = ", ".join(str(port) for ports in streams for port in ports)
        space.drop(f"tcp sport {{ {ports} }}", f"tcp dport {{ {ports} }}")

    return [Event(3.05, drop)]


RESET = names("reset", 6, 2.0, 1.0)


def resets(_: Space, upstreams: list[Streams]) -> list[Event]:
    """First all connections end, so that each question is the first of a new one; then that one is reset."""

    def close() -> None:
        for upstream in upstreams:
            upstream.close_all()

    def arm() -> None:
        for upstream in upstreams:
            upstream.resets = 1

    def check() -> None:
        counts = [upstream.have_been_reset for upstream in upstreams]
        if set(counts) != {len(RESET)}:
            raise Fault(f"{counts} connections of the servers were reset, not {len(RESET)} each")

    times = [it.at_s for it in RESET]
    pairs = [(Event(at_s - 0.5, close), Event(at_s - 0.2, arm)) for at_s in times]
    return [*(event for pair in pairs for event in pair), Event(times[-1] + 1.0, check)]


def closing(how: str) -> Callable[[Space, list[Streams]], list[Event]]:
    def happening(_: Space, upstreams: list[Streams]) -> list[Event]:
        for upstream in upstreams:
            upstream.closes = how
        return []

    return happening


CLOSE = names("close", 12, 0.0, 0.0)
TYPE = "answers A and never HTTPS; two HTTPS questions 2 s apart, 0.6 s later eight A questions at once"
CASES = (
    Case("silence", "type, one upstream", f"the upstream {TYPE}", Asked(), 2.0, silence(1, SILENT_TYPE)),
    Case("silence", "type, two upstreams", f"each of two {TYPE}", Asked(), 2.0, silence(2, SILENT_TYPE)),
    Case("silence", "names", "the upstream never answers some names; twice five of these 2 s apart, 0.6 s later eight others at once",
         Asked(), 2.0, silence(1, SILENT_NAMES)),
    Case("restart", "away for 0.15 s", "the upstream's port is closed for 0.15 s (ICMP), a question every 10 ms, 100 in all",
         Asked(slowest_ms=300), 2.0, restart),
    Case("address", "gone", "this host's only address is replaced, and the default route follows; a question every 50 ms for 20 s",
         Asked(late=2), STUB_WAIT_S, address(Wire.replace)),
    Case("address", "gone, DoT", "the same, and the upstream is asked over TLS", Asked(late=2), STUB_WAIT_S,
         address(Wire.replace, tls=True)),
    Case("address", "gone for 0.2 s", "the next address comes 0.2 s later: the kernel cannot send meanwhile", Asked(late=2), STUB_WAIT_S,
         address(Wire.replace_later)),
    Case("address", "gone for 0.2 s, DoT", "the same, and the upstream is asked over TLS", Asked(late=2), STUB_WAIT_S,
         address(Wire.replace_later, tls=True)),
    Case("address", "not routed", "another address is used from now on; nothing comes back to the old one, which stays",
         Asked(late=2), STUB_WAIT_S, address(Wire.leave)),
    Case("address", "not routed, no TCP", "the same, and a firewall drops TCP to the upstream", Asked(late=2), STUB_WAIT_S,
         address(Wire.leave, tcp=False)),
    Case("address", "not routed, DoT", "the same, and the upstream is asked over TLS", Asked(late=2), STUB_WAIT_S,
         address(Wire.leave, tls=True)),
    Case("dot-silence", "all connections", "DoT: all packets of the connections that there are get lost, new ones work; 150 questions "
         "100 ms apart", Asked(), STUB_WAIT_S, over_streams(going_silent, [*warming(10), *names("still", 150, 0.1, 1.5)])),
    Case("dot-reset", "first question", "DoT: connections are closed, the next one is reset (RST) at its first question; six times",
         Asked(), STUB_WAIT_S, over_streams(resets, RESET)),
    Case("dot-close", "cleanly", "DoT: the upstream closes each connection after one answer, reading on (close_notify, FIN); 12 "
         "questions at once", Asked(), STUB_WAIT_S, over_streams(closing(Streams.CLOSE_CLEANLY), CLOSE)),
    Case("dot-close", "at once", "DoT: the same, but close(2) with questions unread, which sends RST", Asked(), STUB_WAIT_S,
         over_streams(closing(Streams.CLOSE_AT_ONCE), CLOSE)),
)
SCENES = list(dict.fromkeys(case.scene for case in CASES))
