"""What is forwarded: cached answers beside Unbound's and the echo floor, misses, latency, memory, and what loss and floods do.

All traffic stays on loopback. The upstream is a real server with authoritative data. Loss takes root: a rule for its ports alone is
made in nftables, in a table of its own, and taken back.
"""

import argparse
import contextlib
import ctypes
import json
import os
import random
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from . import Fault, dns
from .load import Asking, RedbreastBench
from .names import Names
from .process import Process, pinned
from .rounds import TURNS, Sample, interleave, sample, summary
from .servers import SOCKET_BUFFER_BYTES, Floor, Knot, Server, Setting, Unbound

ROOT = Path(__file__).resolve().parents[2]
DOMAINS = ROOT / "../shared/data/domains-10000.txt"
SEED = 20141105
DRAWS = 400_000
# Below it, every name has an address.
WILD = "wild.example"
# Names there are to be asked once each.
FRESH = 3_000_000
OWN = "own.redbreast.internal"
OWN_ADDRESS = "10.9.9.9"
TTL_S = 86_400
SO_ATTACH_FILTER = 26
# Latency is taken in so many runs of so many seconds, and in short ones.
LONG_S, LONG_RUNS = 5, 3
SHORT_S, SHORT_RUNS = 0.1, 101
# What our own names feel of a flood is the median of so many runs of so many seconds, of each kind in each round.
OWN_S, OWN_RUNS = 0.5, 11
# Seconds until a flood has as many questions open as there can be, and until all of them have ended after it.
RISEN_S, DRAINED_S = 5, 7


class Data:
    """The names that upstreams have, each with an address of its own."""

    def __init__(self, domains: Path):
        try:
            lines = domains.read_text().split()
        except OSError as error:
            raise Fault(f"{domains}: {error.strerror}; give a file of names, one a line, with --domains") from error
        self.domains = [line.rstrip(".").lower() for line in lines]

    def address(self, i: int) -> str:
        return Names(1).address(i)

    def zone(self) -> str:
        """Everything, as one zone of the root."""
        head = f"$TTL {TTL_S}\n. IN SOA ns. hostmaster. 1 3600 900 604800 300\n. IN NS ns.\nns. IN A 127.0.0.1\n"
        hosts = "".join(f"{name}. IN A {self.address(i)}\n" for i, name in enumerate(self.domains))
        return f"{head}{hosts}*.{WILD}. IN A 192.0.2.1\n"

    def write_popular(self, path: Path) -> None:
        """Names as often as their rank says: Zipf's law with exponent 1."""
        weights = list(accumulate(1 / rank for rank in range(1, len(self.domains) + 1)))
        drawn = random.Random(SEED).choices(self.domains, cum_weights=weights, k=DRAWS)
        path.write_text("".join(f"{name} A\n" for name in drawn))

    def write_all(self, path: Path) -> None:
        path.write_text("".join(f"{name} A\n" for name in self.domains))


class Upstream(Knot):
    """Knot, with all of the names in a zone of the root: it is the fastest that can have them."""

    domain = "."

    def __init__(self, setting: Setting, data: Data, name: str = "upstream"):
        self.name = name
        super().__init__(setting)
        self.data = data

    def write_zone(self, path: Path) -> None:
        path.write_text(self.data.zone())

    def wrong(self) -> str | None:
        return self.differs(self.data.domains[0], dns.Reply(dns.NOERROR, [self.data.address(0)]))


class Forwarder(Upstream):
    """A server that asks an upstream."""

    def __init__(self, setting: Setting, data: Data, upstreams: list[int], options: list[str] | None = None):
        super().__init__(setting, data, self.name)
        self.upstreams = upstreams
        self.options = options or []


class RedbreastForwarder(Forwarder):
    name = "redbreast"

    def __init__(self, setting: Setting, *more):
        super().__init__(setting, *more)
        self.program = str(setting.binary)

    def configure(self) -> None:
        (self.directory / "hosts").write_text(f"{OWN_ADDRESS} {OWN}\n")

    def wrong(self) -> str | None:
        """Its own names alone: its upstream may be one that never answers."""
        return self.differs(OWN, dns.Reply(dns.NOERROR, [OWN_ADDRESS]))

    def command(self) -> list[str]:
        upstreams = [word for port in self.upstreams for word in ("--upstream", f"127.0.0.1:{port}")]
        listen = ["--listen", f"127.0.0.1:{self.port}", "--control", f"unix:{self.directory}/control"]
        return ["serve", "--names", "hosts", "--workers", "1", *listen, *upstreams, *self.options]


class Before(RedbreastForwarder):
    """Another build of Redbreast."""

    name = "before"

    def __init__(self, setting: Setting, *more):
        super().__init__(setting, *more)
        self.program = str(setting.against)


class UnboundForwarder(Forwarder):
    name = "unbound"
    program = "unbound"
    package = "unbound"
    version_arguments = ["-V"]

    def configure(self) -> None:
        addresses = "".join(f"    forward-addr: 127.0.0.1@{port}\n" for port in self.upstreams)
        (self.directory / "unbound.conf").write_text(f"""
server:
    interface: 127.0.0.1@{self.port}
    num-threads: 1
    so-rcvbuf: {SOCKET_BUFFER_BYTES}
    so-sndbuf: {SOCKET_BUFFER_BYTES}
    outgoing-range: 8192
    num-queries-per-thread: 4096
    minimal-responses: yes
    module-config: "iterator"
    do-not-query-localhost: no
    msg-cache-size: 64m
    rrset-cache-size: 128m
    do-daemonize: no
    use-syslog: no
    logfile: ""
    username: ""
    chroot: ""
    directory: "{self.directory}"
    pidfile: ""
forward-zone:
    name: "."
{addresses}
remote-control:
    control-enable: no
""")

    command = Unbound.command


class Run:
    """All that a measurement needs: the program, the CPUs, the seconds, a directory."""

    def __init__(self, arguments: argparse.Namespace, directory: Path):
        self.arguments = arguments
        self.directory = directory
        self.data = Data(arguments.domains)
        self.bench = RedbreastBench(arguments.binary)
        self.popular = directory / "popular"
        self.data.write_popular(self.popular)
        self.everything = directory / "everything"
        self.data.write_all(self.everything)
        self.stack = contextlib.ExitStack()
        self.number = 0

    def setting(self, cpu: int) -> Setting:
        self.number += 1
        directory = self.directory / str(self.number)
        directory.mkdir()
        return Setting(self.arguments.binary, Names(1), directory, cpu, self.arguments.against)

    def upstream(self, name: str = "upstream") -> Upstream:
        return self.stack.enter_context(Upstream(self.setting(self.arguments.load_cpu), self.data, name))

    def forwarder(self, kind: type[Forwarder], upstreams: list[int], *options: str) -> Forwarder:
        return self.stack.enter_context(
            kind(self.setting(self.arguments.server_cpu), self.data, upstreams, list(options))
        )

    def asking(self, queries: Path, seconds: float | None = None) -> Asking:
        arguments = self.arguments
        return Asking(
            seconds or arguments.seconds, arguments.clients, arguments.outstanding, arguments.load_cpu, queries
        )

    def told(self, port: int, *options: str, before: Sequence[str] = ()) -> dict:
        """What `redbreast bench` tells, asked in some other way; started by the command `before` it, if any."""
        command = [*before, str(self.arguments.binary), "bench", "-p", str(port), "--json", "-", "--accept-invalid", *options]
        done = subprocess.run(pinned(self.arguments.load_cpu, command), capture_output=True, text=True)
        if done.returncode not in (0, 1) or not done.stdout:
            raise Fault(f"redbreast bench: exit status {done.returncode}: {done.stderr.strip()[-500:]}")
        return json.loads(done.stdout)

    def hits(self) -> dict:
        """Cached answers: rates in rounds, and latency at half of the own rate."""
        with self.stack:
            upstream = self.upstream()
            floor = self.stack.enter_context(FloorFor(self.setting(self.arguments.server_cpu)))
            servers = [floor, *(self.forwarder(kind, [upstream.port]) for kind in (RedbreastForwarder, UnboundForwarder))]
            for server in servers[1:]:
                for _ in range(2):
                    self.told(server.port, "-d", str(self.everything), "-n", "1", "-q", "50", "-c", "4")
            samples = interleave(
                servers,
                self.arguments.rounds,
                lambda server: server.name,
                lambda server: sample(server, self.bench, self.asking(self.popular).in_turns(TURNS)),
                TURNS,
            )
            rows = {name: summary(of, samples["floor"]) for name, of in samples.items()}
            for name, latency in self.half_load(servers, {name: row["qps"] for name, row in rows.items()}).items():
                rows[name] |= latency
            own = [a.load.qps / b.load.qps for a, b in zip(samples["redbreast"], samples["unbound"], strict=True)]
            return {"rows": rows, "redbreast_to_unbound": statistics.median(own)}

    def half_load(self, servers: Sequence[Server], qps: dict[str, float]) -> dict[str, dict]:
        """Latency in an open loop at half of each server's own rate: over some seconds, and the medians of short runs in turn.

        Where a machine takes its CPUs away for milliseconds a few times a second, what is beyond the 99th percentile of seconds tells
        of that alone; most short runs have no such pause.
        """
        keys = ("p50", "p99", "p99_9")

        def ask(server: Server, seconds: float) -> dict[str, float]:
            half = int(qps[server.name] / 2)
            options = ["-d", str(self.popular), "-Q", str(half), "-c", str(self.arguments.clients), "-l", str(seconds)]
            latency = self.told(server.port, *options)["latency_us"]["all"]
            return {key: latency[key] for key in keys}

        def medians(seconds: float, turns: int) -> dict[str, dict[str, float]]:
            seen: dict[str, list] = {server.name: [] for server in servers}
            for turn in range(turns):
                first = turn % len(servers)
                for server in [*servers[first:], *servers[:first]]:
                    seen[server.name].append(ask(server, seconds))
            return {name: {key: statistics.median(one[key] for one in all_) for key in keys} for name, all_ in seen.items()}

        whole, short = medians(LONG_S, LONG_RUNS), medians(SHORT_S, SHORT_RUNS)
        return {name: {"half_load_us": whole[name], "half_load_short_us": short[name]} for name in whole}

    def answers(self) -> dict:
        """Whether both say the same of every name, and of one beside each that is not there."""
        with contextlib.ExitStack() as self.stack:
            upstream = self.upstream()
            ours, unbound = (self.forwarder(kind, [upstream.port]) for kind in (RedbreastForwarder, UnboundForwarder))
            names = [name for domain in self.data.domains for name in (domain, f"not-there.{domain}")]
            different = []
            for name in names:
                said = [dns.ask(server.port, name, 2.0) for server in (ours, unbound)]
                if said[0] != said[1]:
                    different.append(f"{name}: {said[0]} by redbreast, {said[1]} by unbound")
            return {"asked": len(names), "different": len(different), "samples": different}

    def misses(self) -> dict:
        """Names that nobody has asked for before: what one core forwards. Each round asks all servers for the same names, in turn."""
        with contextlib.ExitStack() as self.stack:
            upstream = self.upstream()
            kinds = [RedbreastForwarder, UnboundForwarder]
            if self.arguments.against is not None:
                kinds.insert(1, Before)
            servers = [self.forwarder(kind, [upstream.port]) for kind in kinds]
            samples: dict[str, list[Sample]] = {server.name: [] for server in servers}
            queries = self.directory / "fresh"
            for number in range(self.arguments.rounds):
                first = number * FRESH
                queries.write_text("".join(f"n{i:08d}.{WILD} A\n" for i in range(first, first + FRESH)))
                turn = number % len(servers)
                for server in [*servers[turn:], *servers[:turn]]:
                    samples[server.name].append(sample(server, self.bench, self.asking(queries)))
            told: dict = {"rows": {name: summary(of, of) for name, of in samples.items()}}
            for name in [name for name in samples if name != "redbreast"]:
                pairs = zip(samples["redbreast"], samples[name], strict=True)
                told[f"redbreast_to_{name}"] = statistics.median(a.load.qps / b.load.qps for a, b in pairs)
            return told

    def flood(self) -> dict:
        """What our own names feel of questions that an upstream never answers, which answers others; beside it, of as many queries
        for names of our own."""
        with contextlib.ExitStack() as self.stack:
            upstream = self.stack.enter_context(HalfSilent())
            server = self.forwarder(RedbreastForwarder, [upstream.port])
            self.stack.enter_context(KeptAlive(server.port))
            fresh = self.directory / "fresh"
            fresh.write_text("".join(f"n{i:08d}.{WILD} A\n" for i in range(FRESH)))
            own = self.directory / "own"
            own.write_text(f"{OWN} A\n")
            samples, in_flight, memory = {"quiet": [], "own names": [], "flooded": []}, [], []
            for _ in range(self.arguments.rounds):
                samples["quiet"].append(self.own_p99_us(server, own))
                with self.flooding(server, own):
                    samples["own names"].append(self.own_p99_us(server, own))
                with self.flooding(server, fresh):
                    samples["flooded"].append(self.own_p99_us(server, own))
                    in_flight.append(self.in_flight(server))
                    memory.append(server.process.memory_mib())
                time.sleep(DRAINED_S)
            return {
                "own_p99_us_quiet": statistics.median(samples["quiet"]),
                "own_p99_us_beside_as_many_of_own_names": statistics.median(samples["own names"]),
                "own_p99_us_flooded": statistics.median(samples["flooded"]),
                "questions_in_flight": max(in_flight),
                "memory_mib": max(memory),
                "samples": samples,
            }

    def own_p99_us(self, server: Server, own: Path) -> float:
        # Asleep, as applications are: a generator that spins would have the CPU that the flood comes from. It goes before the flood
        # when it wakes up, else what it tells would be for how long the flood keeps it from that CPU.
        options = ["-d", str(own), "-Q", "2000", "-c", "4", "-l", str(OWN_S), "--wait", "sleep"]
        first = ["chrt", "--fifo", "1"] if os.geteuid() == 0 else []
        runs = (self.told(server.port, *options, before=first) for _ in range(OWN_RUNS))
        return statistics.median(run["latency_us"]["all"]["p99"] for run in runs)

    @contextlib.contextmanager
    def flooding(self, server: Server, queries: Path):
        """So many queries a second while it lasts, from seconds before on, so that as many are open as can be."""
        command = [str(self.arguments.binary), "bench", "-p", str(server.port), "-d", str(queries)]
        command += ["-Q", str(self.arguments.flood), "-c", "64", "-t", "1", "-l", "60", "--wait", "sleep", "--accept-invalid"]
        flood = subprocess.Popen(
            pinned(self.arguments.load_cpu, ["nice", "-n", "19", *command]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            time.sleep(RISEN_S)
            yield
        finally:
            flood.terminate()
            flood.wait()

    def in_flight(self, server: Server) -> int:
        command = [str(self.arguments.binary), "cache", "stats", "--json", "--control", f"unix:{server.directory}/control"]
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        if said.returncode:
            raise Fault(f"redbreast cache stats: {said.stderr.strip()}")
        return json.loads(said.stdout)["in_flight"]

    def loss(self) -> dict:
        """One dead upstream of three, and a fifth of all datagrams of the others lost."""
        with contextlib.ExitStack() as self.stack:
            live = [self.upstream(f"upstream-{i}") for i in range(2)]
            silent = self.stack.enter_context(Silent())
            ports = [silent.port, *(server.port for server in live)]
            server = self.forwarder(RedbreastForwarder, ports)
            self.stack.enter_context(Lossy([it.port for it in live]))
            told = self.told(server.port, "-d", str(self.everything), "-n", "1", "-Q", "500", "-c", "4", "-t", "10")
            latency = told["latency_us"]["all"]
            rcodes = told["rcodes"]
            answered = rcodes.get("NOERROR", 0) + rcodes.get("NXDOMAIN", 0)
            return {"asked": told["totals"]["sent"], "answered": answered / told["totals"]["sent"], **latency}

    def memory(self) -> dict:
        """What a cached answer takes beside its data."""
        with contextlib.ExitStack() as self.stack:
            upstream = self.upstream()
            server = self.forwarder(RedbreastForwarder, [upstream.port], "--cache-size", "1G")
            count = 500_000
            queries = self.directory / "fresh"
            queries.write_text("".join(f"n{i:08d}.{WILD} A\n" for i in range(count)))
            self.told(server.port, "-d", str(self.everything), "-n", "1", "-q", "50")
            before = server.process.memory_mib()
            for _ in range(3):
                self.told(server.port, "-d", str(queries), "-n", "1", "-q", "100")
            grown = (server.process.memory_mib() - before) * 2**20 / count
            name = len(f"n{0:08d}.{WILD}") + 2
            data = name + 16
            return {"entries": count, "bytes_each": grown, "data_bytes_each": data, "beside_data": grown - data}


class FloorFor(Floor):
    """The echo floor, asked other names than those of the other comparison."""

    def wrong(self) -> str | None:
        return self.differs("a.example", dns.Reply(dns.NOERROR, []))


class Silent:
    """A port where nobody answers, and nobody says so."""

    def __enter__(self) -> "Silent":
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        return self

    def __exit__(self, *_) -> None:
        self.socket.close()


class HalfSilent:
    """A port where questions for names with a long first label are not answered, at no cost: the kernel throws them away. Others are."""

    # Bytes of the first label, whose length stands behind the headers of UDP and DNS.
    LONGEST = 7
    LABEL_AT = 8 + 12

    def __enter__(self) -> "HalfSilent":
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        instructions = [  # a = length of the label; if a > LONGEST keep 0 bytes of the datagram, else all
            (0x30, 0, 0, self.LABEL_AT), (0x25, 0, 1, self.LONGEST), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF),
        ]
        program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *it) for it in instructions))
        attach = struct.pack("HP", len(instructions), ctypes.addressof(program))
        self.socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, attach)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.socket.settimeout(0.1)
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.answer)
        self.thread.start()
        return self

    def answer(self) -> None:
        while not self.ended.is_set():
            try:
                query, client = self.socket.recvfrom(512)
            except TimeoutError:
                continue
            end = query.index(0, 12) + 5
            record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 0, 4) + bytes([192, 0, 2, 1])
            self.socket.sendto(query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + query[12:end] + record, client)

    def __exit__(self, *_) -> None:
        self.ended.set()
        self.thread.join()
        self.socket.close()


class KeptAlive:
    """Asks a short question ten times a second, so that the upstream is seen to be there."""

    def __init__(self, port: int):
        self.address = ("127.0.0.1", port)
        self.ended = threading.Event()

    def __enter__(self) -> "KeptAlive":
        self.thread = threading.Thread(target=self.ask)
        self.thread.start()
        return self

    def ask(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            while not self.ended.wait(0.1):
                asking.sendto(b"\0\1\1\0\0\1\0\0\0\0\0\0\5alive\1z\0\0\1\0\1", self.address)

    def __exit__(self, *_) -> None:
        self.ended.set()
        self.thread.join()


class Lossy:
    """A fifth of the datagrams to and from these ports is lost."""

    def __init__(self, ports: list[int]):
        self.ports = ", ".join(map(str, ports))

    def __enter__(self) -> "Lossy":
        rule = "numgen random mod 100 < 20 drop"
        script = f"""table inet redbreast_bench {{
            chain input {{
                type filter hook input priority 0;
                udp dport {{ {self.ports} }} {rule}
                udp sport {{ {self.ports} }} {rule}
            }}
        }}"""
        subprocess.run(["nft", "-f", "-"], input=script, text=True, check=True)
        return self

    def __exit__(self, *_) -> None:
        subprocess.run(["nft", "delete", "table", "inet", "redbreast_bench"], check=True)


PARTS = ["answers", "hits", "misses", "flood", "loss", "memory"]


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", type=Path, default=ROOT / "target/dist/redbreast", help="the program to measure")
    parser.add_argument("--against", type=Path, help="another build, whose misses are measured beside")
    parser.add_argument("--domains", type=Path, default=DOMAINS, help="the names, one a line, the most popular first")
    parser.add_argument("--only", action="append", choices=PARTS, help="this part alone; may be given again")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long a round of each server is")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--outstanding", type=int, default=100)
    parser.add_argument("--flood", type=int, default=22_000, help="questions a second that are never answered")
    parser.add_argument("--server-cpu", type=int, default=0)
    parser.add_argument("--load-cpu", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for all figures and samples")
    arguments = parser.parse_args(words)
    arguments.binary = arguments.binary.resolve()
    arguments.against = arguments.against and arguments.against.resolve()
    results = {}
    try:
        with tempfile.TemporaryDirectory(prefix="redbreast-resolver-") as directory:
            run = Run(arguments, Path(directory))
            for part in arguments.only or PARTS:
                results[part] = getattr(run, part)()
                show(part, results[part])
    except Fault as fault:
        print(f"bench-resolver: {fault}", file=sys.stderr)
        return 1
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


def show(part: str, result: dict) -> None:
    print(f"== {part}")
    for name, row in result.get("rows", {}).items():
        ratio = row["ratio"]
        line = f"{name:12} {row['qps']:9.0f} q/s  ratio {ratio['median']:.3f} ({ratio['min']:.3f}..{ratio['max']:.3f})"
        line += f"  user {row['user_ns_per_query']:.0f} ns  system {row['system_ns_per_query']:.0f} ns"
        line += f"  server CPU {row['server_cpu']:.2f}  load CPU {row['load_cpu']:.2f}  lost {row['lost']}"
        for key, what in (("half_load_us", "at half load"), ("half_load_short_us", "in short runs")):
            if not (half := row.get(key)):
                continue
            line += f"  {what} p50 {half['p50']:.0f} us p99 {half['p99']:.0f} us p99.9 {half['p99_9']:.0f} us"
        print(line)
    for key, value in result.items():
        if key == "samples" and isinstance(value, list):
            print("\n".join(value[:20]))
        elif key not in ("rows", "samples"):
            print(f"{key}: {value:.3f}" if isinstance(value, float) else f"{key}: {value}")
    sys.stdout.flush()
