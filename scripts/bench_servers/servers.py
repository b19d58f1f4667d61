"""A class per server: its configuration, its command, and whether it answers rightly.

Each is configured for its best rate with one thread: the largest socket buffers it can ask for, minimal responses, no
rate limiting, no log line per query. None changes user or root directory or is controlled from outside, so none needs
root, and none touches what the system has installed for it.
"""

import getpass
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from . import Fault, dns
from .names import DOMAIN, Names
from .process import Process

READY_S = 120.0
ASK_S = 1.0
SOCKET_BUFFER_BYTES = 4 << 20
# Daemons are installed where an ordinary user's search path does not lead.
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Setting:
    """What all servers are given alike."""

    binary: Path
    names: Names
    directory: Path
    # The one CPU it may use; any, if none is said.
    cpu: int | None
    # Another build of Redbreast, if one is measured beside.
    against: Path | None = None


class Server:
    """One server: configured in a directory of its own, started, and ended when left as a context."""

    name: str
    program: str
    package: str | None
    version_arguments: list[str]
    # Measured only when it is named.
    on_request = False

    def __init__(self, setting: Setting):
        self.names = setting.names
        self.cpu = setting.cpu
        self.directory = setting.directory / self.name
        self.port = free_port()
        self.process: Process | None = None
        # From its start until it answered rightly, looked at every 50 ms.
        self.ready_s = 0.0

    def configure(self) -> None:
        """Writes the configuration and the names."""

    def command(self) -> list[str]:
        raise NotImplementedError

    @classmethod
    def installed(cls) -> bool:
        return shutil.which(cls.program, path=SEARCH_PATH) is not None

    def __enter__(self) -> "Server":
        self.directory.mkdir()
        self.configure()
        began = time.monotonic()
        self.process = Process([self.path(), *self.command()], self.cpu, self.directory)
        try:
            self.await_ready()
            self.ready_s = time.monotonic() - began
        except BaseException:
            self.process.stop()
            raise
        return self

    def __exit__(self, *_) -> None:
        self.process.stop()

    def path(self) -> str:
        return shutil.which(self.program, path=SEARCH_PATH) or self.program

    def version(self) -> str:
        """The first line the server says of its version, on either stream."""
        said = subprocess.run(
            [self.path(), *self.version_arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        return said.stdout.partition("\n")[0].strip()

    def await_ready(self) -> None:
        """Waits until the server answers rightly."""
        deadline = time.monotonic() + READY_S
        while wrong := self.wrong():
            self.check_alive()
            if time.monotonic() > deadline:
                raise Fault(f"{self.name}: not ready after {READY_S:.0f} s: {wrong}\n{self.process.log_tail()}")
            time.sleep(0.05)
        # Another program's answers would not do.
        self.check_alive()

    def check_alive(self) -> None:
        if how := self.process.ended():
            raise Fault(f"{self.name}: ended by itself ({how}); the end of its log:\n{self.process.log_tail()}")

    def wrong(self) -> str | None:
        """What is wrong with the server's answers; None when they are right."""
        for i in {0, self.names.count // 2, self.names.count - 1}:
            expected = dns.Reply(dns.NOERROR, [self.names.address(i)])
            if wrong := self.differs(self.names.known(i), expected):
                return wrong
        return self.differs(self.names.unknown(0), dns.Reply(dns.NXDOMAIN, []))

    def differs(self, name: str, expected: dns.Reply) -> str | None:
        reply = dns.ask(self.port, name, ASK_S)
        return None if reply == expected else f"{name} A: expected {expected}, got {reply or 'no answer'}"


class Floor(Server):
    """The echo floor: no DNS at all."""

    name = "floor"
    package = None
    version_arguments = ["--version"]

    def __init__(self, setting: Setting):
        super().__init__(setting)
        self.program = str(setting.binary)

    @classmethod
    def installed(cls) -> bool:
        return True

    def command(self) -> list[str]:
        return ["perf", "floor", "--listen", f"127.0.0.1:{self.port}"]

    def wrong(self) -> str | None:
        """The query itself comes back: no error, and no answers."""
        return self.differs(self.names.known(0), dns.Reply(dns.NOERROR, []))


class Redbreast(Floor):
    """The same program, serving; unlike the floor it has to answer rightly."""

    name = "redbreast"

    def configure(self) -> None:
        self.names.write_hosts(self.hosts())

    def hosts(self) -> Path:
        """The names file it serves."""
        return self.directory / "hosts"

    def command(self) -> list[str]:
        options = {"--names": "hosts", "--domain": DOMAIN, "--workers": "1", "--listen": f"127.0.0.1:{self.port}"}
        return ["serve", *(word for option in options.items() for word in option)]

    wrong = Server.wrong


class RedbreastBusy(Redbreast):
    """The same, looking for the next query for ten milliseconds after each before it sleeps until there is one.

    All servers stay up: one that never slept would take half of the CPU from all others.
    """

    name = "redbreast-busy"
    on_request = True

    def command(self) -> list[str]:
        return [*super().command(), "--busy-poll=10000"]


class Gdnsd(Server):
    """An authoritative server: one dedicated thread for UDP, recvmmsg and sendmmsg."""

    name = "gdnsd"
    program = "gdnsd"
    package = "gdnsd"
    version_arguments = ["version"]

    def configure(self) -> None:
        (self.directory / "zones").mkdir()
        self.names.write_zone(self.directory / "zones" / DOMAIN)
        # 1 MiB is the largest buffer that gdnsd takes. Its control socket, in run_dir, cannot be turned off.
        (self.directory / "config").write_text(f"""
            options => {{
                listen => 127.0.0.1:{self.port},
                udp_threads => 1,
                tcp_threads => 1,
                udp_rcvbuf => {1 << 20},
                udp_sndbuf => {1 << 20},
                disable_cookies => true,
                run_dir => {self.directory}/run,
                state_dir => {self.directory}/state,
            }}
        """)

    def command(self) -> list[str]:
        return ["-c", str(self.directory), "start"]


class Knot(Server):
    """An authoritative server: one worker for UDP, recvmmsg and sendmmsg."""

    name = "knot"
    program = "knotd"
    package = "knot"
    version_arguments = ["--version"]
    domain = DOMAIN

    def write_zone(self, path: Path) -> None:
        self.names.write_zone(path)

    def configure(self) -> None:
        self.write_zone(self.directory / "zone")
        # Knot chooses its own socket buffers. The control socket cannot be turned off; the journal, which would be
        # mapped at 20 GiB, is not used.
        (self.directory / "knot.conf").write_text(f"""
server:
    rundir: "{self.directory}"
    listen: 127.0.0.1@{self.port}
    udp-workers: 1
    tcp-workers: 1
    tcp-max-clients: 1024
    background-workers: 1
control:
    listen: "{self.directory}/control"
database:
    storage: "{self.directory}"
log:
  - target: stderr
    any: notice
zone:
  - domain: {self.domain}
    file: "{self.directory}/zone"
    semantic-checks: off
    zonefile-sync: -1
    journal-content: none
""")

    def command(self) -> list[str]:
        return ["--config", str(self.directory / "knot.conf")]


class Nsd(Server):
    """An authoritative server; the one that answers is a child of the process started."""

    name = "nsd"
    program = "nsd"
    package = "nsd"
    version_arguments = ["-v"]

    def configure(self) -> None:
        self.names.write_zone(self.directory / "zone")
        (self.directory / "nsd.conf").write_text(f"""
server:
    ip-address: 127.0.0.1@{self.port}
    server-count: 1
    tcp-count: 1024
    receive-buffer-size: {SOCKET_BUFFER_BYTES}
    send-buffer-size: {SOCKET_BUFFER_BYTES}
    minimal-responses: yes
    rrl-ratelimit: 0
    rrl-whitelist-ratelimit: 0
    username: ""
    chroot: ""
    database: ""
    zonesdir: "{self.directory}"
    pidfile: "{self.directory}/pid"
    xfrdfile: "{self.directory}/xfrd.state"
    xfrdir: "{self.directory}"
    zonelistfile: "{self.directory}/zone.list"
remote-control:
    control-enable: no
zone:
    name: {DOMAIN}
    zonefile: zone
""")

    def command(self) -> list[str]:
        return ["-d", "-c", str(self.directory / "nsd.conf")]


class Unbound(Server):
    """A resolver, given the names as local data: what does not exist is then NXDOMAIN, and nothing is resolved."""

    name = "unbound"
    program = "unbound"
    package = "unbound"
    version_arguments = ["-V"]

    def configure(self) -> None:
        data = "".join(f"    local-data: '{record}'\n" for record in self.names.records())
        (self.directory / "unbound.conf").write_text(f"""
server:
    interface: 127.0.0.1@{self.port}
    num-threads: 1
    incoming-num-tcp: 1024
    so-rcvbuf: {SOCKET_BUFFER_BYTES}
    so-sndbuf: {SOCKET_BUFFER_BYTES}
    minimal-responses: yes
    ip-ratelimit: 0
    module-config: "iterator"
    do-daemonize: no
    use-syslog: no
    logfile: ""
    username: ""
    chroot: ""
    directory: "{self.directory}"
    pidfile: ""
    local-zone: "{DOMAIN}." static
{data}
remote-control:
    control-enable: no
""")

    def command(self) -> list[str]:
        return ["-d", "-c", str(self.directory / "unbound.conf")]


class Bind(Server):
    """The reference: authoritative for the zone, one thread."""

    name = "bind"
    program = "named"
    package = "bind9"
    version_arguments = ["-v"]

    def configure(self) -> None:
        self.names.write_zone(self.directory / "zone")
        (self.directory / "named.conf").write_text(f"""
options {{
    directory "{self.directory}";
    listen-on port {self.port} {{ 127.0.0.1; }};
    listen-on-v6 {{ none; }};
    recursion no;
    minimal-responses yes;
    notify no;
    allow-transfer {{ none; }};
    tcp-clients 1024;
    pid-file none;
    session-keyfile "{self.directory}/session.key";
    managed-keys-directory "{self.directory}";
    lock-file none;
}};
controls {{ }};
zone "{DOMAIN}" {{ type primary; file "zone"; check-names ignore; }};
""")

    def command(self) -> list[str]:
        # In the foreground, with one thread.
        return ["-f", "-n", "1", "-c", str(self.directory / "named.conf")]


class PowerDns(Server):
    """An authoritative server with the zone in its BIND backend, and its packet cache, as it comes."""

    name = "powerdns"
    program = "pdns_server"
    package = "pdns-server"
    version_arguments = ["--version"]

    def configure(self) -> None:
        self.names.write_zone(self.directory / "zone")
        (self.directory / "named.conf").write_text(
            f'zone "{DOMAIN}" {{ type master; file "{self.directory}/zone"; }};\n'
        )
        # The caches hold all answers, so that they and not the backend are measured.
        (self.directory / "pdns.conf").write_text(f"""
launch=bind
bind-config={self.directory}/named.conf
bind-check-interval=0
local-address=127.0.0.1
local-port={self.port}
socket-dir={self.directory}
receiver-threads=1
distributor-threads=1
cache-ttl=3600
negquery-cache-ttl=3600
query-cache-ttl=3600
max-cache-entries={4 * self.names.count + 1000}
max-packet-cache-entries={4 * self.names.count + 1000}
udp-truncation-threshold=1232
log-dns-queries=no
loglevel=3
disable-syslog=yes
write-pid=no
guardian=no
daemon=no
security-poll-suffix=
""")

    def command(self) -> list[str]:
        return [f"--config-dir={self.directory}"]


class Dnsmasq(Server):
    """A forwarder for small networks, given the names as hosts; it has one thread and nothing to tune for rate."""

    name = "dnsmasq"
    program = "dnsmasq"
    package = "dnsmasq-base"
    version_arguments = ["--version"]

    def configure(self) -> None:
        self.names.write_hosts(self.directory / "hosts")

    def command(self) -> list[str]:
        return [
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            f"--port={self.port}",
            "--listen-address=127.0.0.1",
            "--bind-interfaces",
            "--no-resolv",
            "--no-hosts",
            f"--addn-hosts={self.directory}/hosts",
            f"--local=/{DOMAIN}/",
            "--local-ttl=60",
            f"--user={getpass.getuser()}",
            "--pid-file=",
            "--log-facility=-",
        ]


SERVERS = {
    server.name: server
    for server in (Floor, Redbreast, RedbreastBusy, Gdnsd, Knot, Nsd, Unbound, Bind, PowerDns, Dnsmasq)
}
# Those that are measured unless something else is asked for.
USUAL = [name for name, server in SERVERS.items() if not server.on_request]


def free_port() -> int:
    """A port that the kernel says nobody has, for UDP and for TCP."""
    for _ in range(100):
        with socket.socket(type=socket.SOCK_DGRAM) as udp, socket.socket(type=socket.SOCK_STREAM) as tcp:
            udp.bind(("127.0.0.1", 0))
            port = udp.getsockname()[1]
            try:
                tcp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise Fault("no port of 127.0.0.1 is free for UDP and TCP")
