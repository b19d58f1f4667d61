"""The command line: what to measure, with what, and what is made of it."""

import argparse
import json
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn

from . import Fault, table
from .latency import COMPARED_QPS, compare_latency
from .latency import render as render_latency
from .page import page
from .load import Asking, BareLoop, Dnsperf, DnsperfTcp, Generator, RedbreastBench
from .names import COUNT_MAX, Names
from .loads import compare_loads
from .loads import render as render_loads
from .rounds import TURNS, interleave, sample, show_progress, summary
from .servers import SERVERS, USUAL, Floor, Redbreast, Server, Setting
from .updates import compare_updates

REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULT_BINARY = REPOSITORY / "target" / "dist" / "redbreast"
# For this program and for all it starts: a server that goes wrong must not fill the disk or leave its memory there.
LIMITS = {resource.RLIMIT_NOFILE: 4096, resource.RLIMIT_FSIZE: 2 << 30, resource.RLIMIT_CORE: 0}
# (clients, outstanding queries) the load generators are compared with.
GENERATOR_SETTINGS = ((1, 100), (4, 400))
# Connections, and queries outstanding on all of them: each is pipelined.
TCP_CONNECTIONS, TCP_OUTSTANDING = 100, 2000


def main(arguments: list[str]) -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    try:
        return run(parse(arguments))
    except Fault as fault:
        show_progress("")
        say(str(fault))
        return fault.status
    except OSError as error:
        say(str(error))
        return 1


def say(text: str) -> None:
    print(f"bench-servers: {text}", file=sys.stderr)


def interrupted(number: int, _frame) -> None:
    """Unwinds, which ends all that was started. A second signal must not cut that short."""
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    raise Fault(f"interrupted by {signal.Signals(number).name}", 128 + number)


class OneLineParser(argparse.ArgumentParser):
    """Tells what is wrong in one line, without the usage that argparse puts before it."""

    def error(self, message: str) -> NoReturn:
        raise Fault(f"{message}; see --help", 2)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = OneLineParser(
        prog="bench-servers",
        description="Compares DNS servers with the echo floor: a loop that sends each query back and does no DNS. "
        "Server and load run on a CPU each, rounds are interleaved, and ratios are taken within a round. "
        "The method: docs/performance.md.",
    )
    option = parser.add_argument
    option("--servers", type=server_list, default=USUAL, metavar="A,B,...",
           help=f"which to measure, besides the floor, of {','.join(SERVERS)} (default: those installed of "
           f"{','.join(USUAL)})")
    option("--rounds", type=partial(within, int, 1, 99), default=5, metavar="N", help="rounds (default: 5)")
    option("--seconds", type=partial(within, float, 0.5, 600), default=3.0, metavar="S",
           help="how long each server is measured in each round (default: 3)")
    option("--names", type=partial(within, int, 1, COUNT_MAX), default=10_000, metavar="N",
           help="names served; as many more are asked for that do not exist (default: 10000)")
    option("--clients", type=partial(within, int, 1, 65_000), default=4, metavar="C",
           help="sockets the load asks from (default: 4); more than 1000 are addresses of 127.16.0.0/16")
    option("--outstanding", type=partial(within, int, 1, 60_000), default=400, metavar="Q",
           help="queries the load keeps unanswered (default: 400)")
    option("--server-cpu", type=partial(within, int, 0, 4095), default=0, metavar="CPU", help="default: 0")
    option("--load-cpu", type=partial(within, int, 0, 4095), default=1, metavar="CPU", help="default: 1")
    option("--generators", action="store_true", help="compare redbreast bench with dnsperf as well")
    option("--latency", action="store_true", help="compare as well what both say of each server's latency in an open loop")
    option("--loads", action="store_true",
           help="measure as well each server's latency in an open loop at 10%%, 50%% and 80%% of its own rate")
    option("--updates", action="store_true", help="measure as well what ten updates of all names a second cost redbreast")
    option("--tcp", action="store_true", help="measure as well how many queries are answered over 100 TCP connections")
    option("--check", type=check, action="append", default=[], metavar="'SERVER>=RATIO'",
           help="exit with 1 unless the server reaches this share of the floor; may be repeated")
    option("--json", metavar="FILE", help="write the results with every sample; - writes them instead of the table")
    option("--html", metavar="FILE", help="write a page with the results as plots")
    option("--binary", type=Path, metavar="PATH",
           help="the redbreast to use (default: target/dist/redbreast, built if missing)")
    option("--install", action="store_true",
           help="install what is missing with apt-get, as root (Debian then starts the servers' own services too)")
    return parser.parse_args(arguments)


def within(kind: type, low: float, high: float, text: str) -> float:
    """A number between two bounds, both included."""
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        raise argparse.ArgumentTypeError(f"'{text}': expected a number from {low:,} to {high:,}")
    return value


def server_list(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in SERVERS:
            raise argparse.ArgumentTypeError(f"'{name}': expected names out of {','.join(SERVERS)}")
    return list(dict.fromkeys(names))


def check(text: str) -> tuple[str, float]:
    found = re.fullmatch(r"\s*(\w+)\s*>=\s*([0-9]*\.?[0-9]+)\s*", text)
    if not found or found[1] not in SERVERS:
        raise argparse.ArgumentTypeError(f"'{text}': expected a server's name, >= and a number: 'redbreast>=0.85'")
    return found[1], float(found[2])


def run(options: argparse.Namespace) -> int:
    limit_resources()
    require_tools()
    require_writable("--json", options.json)
    require_writable("--html", options.html)
    require_cpus(options.server_cpu, options.load_cpu)
    binary = find_binary(options.binary)
    kinds = present_servers(options)
    generators = present_generators(options, binary)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-servers-")))
        setting = Setting(binary, Names(options.names), directory, options.server_cpu)
        queries = directory / "queries"
        setting.names.write_queries(queries)
        asking = Asking(options.seconds, options.clients, options.outstanding, options.load_cpu, queries)
        servers = [start(stack, kind, setting) for kind in kinds]
        results = describe(options, servers)
        results["servers"] = compare_servers(servers, generators[0], asking, options.rounds)
        for server in servers:
            results["servers"][server.name] |= {"ready_s": server.ready_s, "memory_mib": server.process.memory_mib()}
        if options.loads:
            results["loads"] = compare_loads(servers, results["servers"], binary, asking, options.rounds)
        if options.generators:
            bare = [BareLoop(directory)] if BareLoop.installed() else []
            results["generators"] = compare_generators(servers[0], [*generators, *bare], asking, options.rounds)
        if options.latency:
            cpus = (options.server_cpu, options.load_cpu)
            results["latency"] = compare_latency(servers, binary, asking, cpus, options.rounds)
        if options.tcp:
            results["tcp"] = compare_tcp(servers, asking, options.rounds)
        if options.updates:
            redbreast = next(server for server in servers if isinstance(server, Redbreast))
            results["updates"] = compare_updates(redbreast, generators[0], asking, options.rounds)
    return report(results, options)


def limit_resources() -> None:
    for kind, limit in LIMITS.items():
        hard = resource.getrlimit(kind)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))


def require_tools() -> None:
    for tool in ("taskset", "setpriv"):
        if shutil.which(tool) is None:
            raise Fault(f"{tool} is not installed (Debian's util-linux has it)")


def require_writable(option: str, target: str | None) -> None:
    """Finds out before the measuring, and not after it, that its results cannot be kept."""
    if target not in (None, "-") and not os.access(Path(target).parent, os.W_OK):
        raise Fault(f"{option} {target}: expected a file in a directory that can be written", 2)


def require_cpus(server_cpu: int, load_cpu: int) -> None:
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        raise Fault("needs 2 CPUs, one for the server and one for the load; this process may use 1")
    if server_cpu == load_cpu:
        raise Fault(f"--server-cpu and --load-cpu are both {server_cpu}; they must differ", 2)
    for option, cpu in (("--server-cpu", server_cpu), ("--load-cpu", load_cpu)):
        if cpu not in allowed:
            raise Fault(f"{option} {cpu}: expected one of {','.join(map(str, sorted(allowed)))}", 2)


def find_binary(given: Path | None) -> Path:
    """The redbreast to measure; the default one is built when it is missing."""
    binary = given or DEFAULT_BINARY
    if given is None and not binary.exists():
        say("building target/dist/redbreast")
        if subprocess.run(["cargo", "build", "--profile", "dist"], cwd=REPOSITORY).returncode:
            raise Fault("cargo build --profile dist failed; its errors stand above")
    if not os.access(binary, os.X_OK) or binary.is_dir():
        raise Fault(f"--binary {binary}: expected an executable file", 2)
    return binary.resolve()


def present_servers(options: argparse.Namespace) -> list[type[Server]]:
    """The servers to measure, the floor first. Those that are not installed are named and left out."""
    wanted = [SERVERS[name] for name in options.servers if name != Floor.name]
    missing = [kind for kind in wanted if not kind.installed()]
    if options.install and missing:
        install([kind.package for kind in missing])
    for kind in missing:
        if not kind.installed():
            say(f"{kind.name} is not installed and left out (--install would install it)")
    present = [Floor, *(kind for kind in wanted if kind.installed())]
    for option in ("updates", "tcp"):
        if getattr(options, option) and Redbreast not in present:
            raise Fault(f"--{option}: redbreast is not measured", 2)
    for name, _ in options.check:
        if SERVERS[name] not in present:
            raise Fault(f"--check {name}: that server is not measured", 2)
    return present


def present_generators(options: argparse.Namespace, binary: Path) -> list[Generator]:
    """The load for the servers, and with --generators the one it is compared with."""
    if not (options.generators or options.tcp or options.latency):
        return [RedbreastBench(binary)]
    if options.install and not Dnsperf.installed():
        install([Dnsperf.package])
    if not Dnsperf.installed():
        raise Fault("dnsperf, which --generators, --latency and --tcp need, is not installed (--install would install it)", 2)
    return [RedbreastBench(binary), Dnsperf()]


def install(packages: list[str]) -> None:
    if os.geteuid() != 0:
        raise Fault(f"--install: only root can install {' '.join(packages)}", 2)
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    if subprocess.run(command, env=environment, stdout=sys.stderr).returncode:
        raise Fault(f"'{' '.join(command)}' failed; its errors stand above")


def start(stack: ExitStack, kind: type[Server], setting: Setting) -> Server:
    show_progress(f"starting {kind.name}")
    return stack.enter_context(kind(setting))


def compare_servers(servers: list[Server], generator: Generator, asking: Asking, rounds: int) -> dict[str, dict]:
    turn = asking.in_turns(TURNS)
    samples = interleave(servers, rounds, lambda server: server.name, lambda server: sample(server, generator, turn), TURNS)
    return {name: summary(those, samples[Floor.name]) for name, those in samples.items()}


def compare_tcp(servers: list[Server], asking: Asking, rounds: int) -> dict[str, dict]:
    """All servers but the floor, which has no TCP; the ratio is to redbreast."""
    asking = replace(asking, clients=TCP_CONNECTIONS, outstanding=TCP_OUTSTANDING)
    with_tcp = [server for server in servers if server.name != Floor.name]
    generator = DnsperfTcp()
    samples = interleave(with_tcp, rounds, lambda server: server.name, lambda server: sample(server, generator, asking))
    return {name: summary(those, samples[Redbreast.name]) for name, those in samples.items()}


def compare_generators(
    server: Server, generators: list[Generator], asking: Asking, rounds: int
) -> dict[str, dict]:
    """Both generators against the same server, with each of the settings."""
    rows = {}
    for clients, outstanding in GENERATOR_SETTINGS:
        # The bare loop has one socket.
        fitting = [generator for generator in generators if clients == 1 or not isinstance(generator, BareLoop)]
        rows |= generator_rows(server, fitting, replace(asking, clients=clients, outstanding=outstanding), rounds)
    return rows


def generator_rows(server: Server, generators: list[Generator], asking: Asking, rounds: int) -> dict[str, dict]:
    """A row for each generator; the ratio is to dnsperf."""

    def name(generator: Generator) -> str:
        return f"{generator.name} -c {asking.clients} -q {asking.outstanding}"

    turn = asking.in_turns(TURNS)
    samples = interleave(generators, rounds, name, lambda generator: sample(server, generator, turn), TURNS)
    base = next(samples[name(generator)] for generator in generators if isinstance(generator, Dnsperf))
    return {row: summary(those, base) for row, those in samples.items()}


def describe(options: argparse.Namespace, servers: list[Server]) -> dict:
    """What was measured where, so that the figures can be judged and had again."""
    kept = ("rounds", "seconds", "names", "clients", "outstanding", "server_cpu", "load_cpu")
    return {
        "tool": "bench-servers",
        "machine": {"cpu": cpu_model(), "cpus": os.cpu_count(), "kernel": platform.release()},
        "settings": {name: getattr(options, name) for name in kept},
        "versions": {server.name: server.version() for server in servers},
    }


def cpu_model() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def report(results: dict, options: argparse.Namespace) -> int:
    """Prints and writes the results, then the checks; 1 when one does not hold."""
    results["checks"] = [judge(name, least, results["servers"]) for name, least in options.check]
    if options.json != "-":
        print_tables(results)
    if options.json:
        write(json.dumps(results, indent=2) + "\n", "--json", options.json)
    if options.html:
        write(page(results), "--html", options.html)
    for verdict in results["checks"]:
        outcome = "holds" if verdict["holds"] else "does NOT hold"
        print(f"check {verdict['check']}: {verdict['ratio']:.3f}, {outcome}", file=sys.stderr)
    return 0 if all(verdict["holds"] for verdict in results["checks"]) else 1


def judge(name: str, least: float, rows: dict[str, dict]) -> dict:
    ratio = rows[name]["ratio"]["median"]
    return {"check": f"{name}>={least:g}", "ratio": ratio, "holds": ratio >= least}


def print_tables(results: dict) -> None:
    settings, machine = results["settings"], results["machine"]
    print(f"{settings['names']:,} names, half of the queries for others; {settings['rounds']} rounds of "
          f"{settings['seconds']:g} s in {TURNS} turns; -c {settings['clients']} -q {settings['outstanding']}; "
          f"{machine['cpu']}, Linux {machine['kernel']}")
    print("Medians; ratio: to the floor's rate in the same round; waited: the server was ready and others had its CPU.")
    print("A server CPU well below 100% that did not wait for it means that the load was the limit.\n")
    print(table.render("server", results["servers"]))
    if "loads" in results:
        print("\nLatency (us) in an open loop at parts of each server's own rate; response times, medians of the rounds.")
        print("Invalid: the load was late, or had no room for answers, which are lost then: that says nothing of the server.\n")
        print(render_loads(results["loads"]))
    if "generators" in results:
        print("\nLoad generators against the floor; ratio is to dnsperf's rate in the same round.\n")
        print(table.render("load", results["generators"]))
    if "latency" in results:
        print(f"\nMean latency (us) in an open loop at {COMPARED_QPS:,}/s, by redbreast bench and by dnsperf, on the load's CPU "
              "and on both; ratio: ours asleep to dnsperf's. Slip: how late redbreast bench sends.\n")
        print(render_latency(results["latency"]))
    if "tcp" in results:
        print(f"\nOver TCP, dnsperf with {TCP_CONNECTIONS} connections, {TCP_OUTSTANDING} outstanding; ratio is to redbreast's "
              "rate in the same round.\n")
        print(table.render("server", results["tcp"]))
    if "updates" in results:
        print("\nRedbreast while its names file is replaced; ratio is to its own rate undisturbed in the same round.\n")
        print(table.render("names", results["updates"]))


def write(text: str, option: str, target: str) -> None:
    if target == "-":
        sys.stdout.write(text)
        return
    try:
        Path(target).write_text(text)
    except OSError as error:
        raise Fault(f"{option} {target}: {error.strerror}", 2) from error
