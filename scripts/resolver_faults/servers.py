"""The forwarders, each with its plain configuration: it listens on loopback, forwards everything, and has its usual cache.

Whether one is ready is asked with a name of its own, so that at the beginning of a scene none knows anything of its upstreams.
"""

import getpass
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench_servers import dns
from bench_servers.names import Names
from bench_servers.servers import Dnsmasq, Floor, Server, Setting, Unbound

from .upstreams import TLS_NAME

OWN, OWN_ADDRESS = "own.redbreast.internal", "192.0.2.1"


@dataclass(frozen=True)
class Place:
    """An upstream: where it is, and the authority that vouches for it if it is asked over TLS."""

    address: str
    port: int
    authority: Path | None = None


class Forwarder(Server):
    """A server that asks upstreams."""

    def __init__(self, setting: Setting, upstreams: Sequence[Place]):
        super().__init__(setting)
        self.upstreams = upstreams

    def wrong(self) -> str | None:
        return self.differs(OWN, dns.Reply(dns.NOERROR, [OWN_ADDRESS]))


class RedbreastForwarder(Forwarder):
    def __init__(self, setting: Setting, upstreams: Sequence[Place], workers: int):
        self.name = f"redbreast --workers {workers}"
        self.program = str(setting.binary)
        self.workers = workers
        super().__init__(setting, upstreams)

    def configure(self) -> None:
        (self.directory / "hosts").write_text(f"{OWN_ADDRESS} {OWN}\n")

    def command(self) -> list[str]:
        options = ["--listen", f"127.0.0.1:{self.port}", "--control", f"unix:{self.directory}/control", "--names", "hosts"]
        for place in self.upstreams:
            scheme, name = ("tls://", f"#{TLS_NAME}") if place.authority else ("", "")
            options += ["--upstream", f"{scheme}{place.address}:{place.port}{name}"]
            if place.authority:
                options += ["--upstream-ca", str(place.authority)]
        return ["serve", "--log", "text", "--workers", str(self.workers), *options]


class UnboundForwarder(Forwarder):
    name = "unbound"
    program, package, version_arguments = Unbound.program, Unbound.package, Unbound.version_arguments
    command = Unbound.command

    def configure(self) -> None:
        tls = self.upstreams[0].authority
        name = f"#{TLS_NAME}" if tls else ""
        addresses = "\n".join(f"    forward-addr: {place.address}@{place.port}{name}" for place in self.upstreams)
        bundle = f'tls-cert-bundle: "{tls}"' if tls else ""
        (self.directory / "unbound.conf").write_text(f"""
server:
    interface: 127.0.0.1@{self.port}
    access-control: 127.0.0.0/8 allow
    do-not-query-localhost: no
    module-config: "iterator"
    local-data: "{OWN}. A {OWN_ADDRESS}"
    {bundle}
    do-daemonize: no
    use-syslog: no
    logfile: ""
    username: ""
    chroot: ""
    directory: "{self.directory}"
    pidfile: ""
forward-zone:
    name: "."
    forward-tls-upstream: {"yes" if tls else "no"}
{addresses}
remote-control:
    control-enable: no
""")


class DnsmasqForwarder(Forwarder):
    name = "dnsmasq"
    program, package, version_arguments = Dnsmasq.program, Dnsmasq.package, Dnsmasq.version_arguments

    def command(self) -> list[str]:
        return [
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            f"--port={self.port}",
            "--listen-address=127.0.0.1",
            "--bind-interfaces",
            "--no-resolv",
            "--no-hosts",
            f"--address=/{OWN}/{OWN_ADDRESS}",
            *(f"--server={place.address}#{place.port}" for place in self.upstreams),
            f"--user={getpass.getuser()}",
            "--pid-file=",
            "--log-facility=-",
        ]


PEERS = (UnboundForwarder, DnsmasqForwarder)


class Starter:
    """Makes forwarders of one scene's round, each in a directory of its own."""

    def __init__(self, binary: Path, directory: Path):
        self.setting = Setting(binary, Names(1), directory, None)

    def forwarders(self, upstreams: Sequence[Sequence[Place]], workers: Sequence[int]) -> list[Forwarder]:
        """Redbreast with each number of workers, and the others, each with upstreams of its own if there is more than one list;
        dnsmasq cannot ask over TLS."""
        makers: list[Callable[[Sequence[Place]], Forwarder]]
        makers = [partial(RedbreastForwarder, self.setting, workers=number) for number in workers]
        with_tls = upstreams[0][0].authority is not None
        makers += [partial(peer, self.setting) for peer in PEERS if not with_tls or peer is not DnsmasqForwarder]
        lists = [upstreams[0]] * len(makers) if len(upstreams) == 1 else upstreams
        return [make(its) for make, its in zip(makers, lists, strict=True)]


def versions(binary: Path, directory: Path) -> dict[str, str]:
    setting = Setting(binary, Names(1), directory, None)
    return {"redbreast": Floor(setting).version(), **{peer.name: peer(setting, []).version() for peer in PEERS}}
