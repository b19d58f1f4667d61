"""The command line: which faults, with which program, and what is made of it."""

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path

from bench_servers import Fault
from bench_servers.cli import OneLineParser, interrupted, limit_resources, require_writable, within
from bench_servers.rounds import show_progress

from .scenes import CASES, SCENES, Case
from .servers import PEERS, DnsmasqForwarder, Starter, versions
from .verdict import Row, judge, render

NAME = "resolver-faults"
TOOLS = {"setpriv": "util-linux", "ip": "iproute2", "nft": "nftables", "openssl": "openssl"}


def main(words: list[str]) -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    try:
        return run(parse(words))
    except Fault as fault:
        show_progress("")
        print(f"{NAME}: {fault}", file=sys.stderr)
        return fault.status
    except OSError as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return 1


def parse(words: list[str]) -> argparse.Namespace:
    parser = OneLineParser(
        prog=NAME,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Runs the same faults of upstreams beside Redbreast, Unbound and dnsmasq, all asked the same at the same moments.\n"
        "Exits with 1 if Redbreast loses more than is asked, or is worse than the better of the others.",
        epilog=scenes_text(),
    )
    option = parser.add_argument
    option("binary", type=Path, metavar="REDBREAST", help="the redbreast to use")
    option("--rounds", type=partial(within, int, 1, 99), default=3, metavar="N", help="rounds of each case (default: 3)")
    option("--only", action="append", choices=SCENES, metavar="SCENE", help="this scene alone; may be given again")
    option("--json", metavar="FILE", help="write the results, with every question that was lost or took over 50 ms; - writes them "
           "instead of the table")
    option("--keep", type=Path, metavar="DIRECTORY", help="keep the servers' configurations and logs here")
    return parser.parse_args(words)


def scenes_text() -> str:
    lines = ["scenes, and what is asked of Redbreast in each round:"]
    for case in CASES:
        lines += [f"  {case.scene}, {case.name}: {case.asked.text()}", f"      {case.what}"]
    lines += [
        "",
        "Lost is what has no answer, or another one than the upstream's, after 2 s (silence, restart) or 5 s; late is what takes longer",
        "than 1 s. Slowest is of the questions that are not lost. Each round begins with servers that know nothing of their upstreams, in",
        "network namespaces of their own, so it takes root, unbound, dnsmasq, iproute2, nftables and openssl. Ports",
        "come from the kernel, and nothing is left behind.",
    ]
    return "\n".join(lines)


def run(options: argparse.Namespace) -> int:
    limit_resources()
    require_tools()
    require_writable("--json", options.json)
    binary = options.binary.resolve()
    if not os.access(binary, os.X_OK) or binary.is_dir():
        raise Fault(f"{options.binary}: expected an executable file", 2)
    cases = [case for case in CASES if not options.only or case.scene in options.only]
    rows: dict[tuple[str, str, str], Row] = {}
    with tempfile.TemporaryDirectory(prefix=f"{NAME}-") as temporary:
        directory = options.keep or Path(temporary)
        said = versions(binary, Path(temporary))
        for number in range(1, options.rounds + 1):
            for case in cases:
                show_progress(f"round {number} of {options.rounds}: {case.scene}, {case.name}")
                place = (directory / case.scene / case.name.replace(" ", "-") / str(number)).resolve()
                place.mkdir(parents=True)
                for server, outcomes in case.run(Starter(binary, place), case).items():
                    rows.setdefault((case.scene, case.name, server), Row(case, server)).add(outcomes)
    show_progress("")
    results = judge(in_order(rows, cases))
    if options.json != "-":
        print("; ".join([*(f"{name}: {text}" for name, text in said.items()), f"Linux {platform.release()}"]))
        print(f"rounds: {options.rounds}\n")
        print(render(results, not_asked(rows, cases)))
    if options.json:
        text = json.dumps({"versions": said, "kernel": platform.release(), "rounds": options.rounds, "results": results}, indent=1)
        sys.stdout.write(f"{text}\n") if options.json == "-" else Path(options.json).write_text(f"{text}\n")
    return int(any(result["faults"] for result in results))


def require_tools() -> None:
    missing = [f"{tool} ({package})" for tool, package in TOOLS.items() if shutil.which(tool) is None]
    missing += [f"{peer.program} ({peer.package})" for peer in PEERS if not peer.installed()]
    if missing:
        raise Fault(f"not installed: {', '.join(missing)}; scripts/install-test-tools installs them", 2)


def in_order(rows: dict[tuple[str, str, str], Row], cases: list[Case]) -> list[Row]:
    return [row for case in cases for row in rows.values() if row.case is case]


def not_asked(rows: dict[tuple[str, str, str], Row], cases: list[Case]) -> list[tuple[str, str, str]]:
    """What dnsmasq cannot take part in."""
    whole = ((case.scene, case.name, DnsmasqForwarder.name) for case in cases)
    return [key for key in whole if key not in rows]
