"""Latency in an open loop: what our generator and dnsperf say of the same server, and how well ours keeps its schedule."""

import json
import re
import subprocess
from pathlib import Path
from statistics import median

from . import Fault
from .load import GRACE_S, Asking, Dnsperf
from .servers import Server

# Queries a second at which means are compared, and at which the schedule is looked at.
COMPARED_QPS, HIGH_QPS = 20_000, 100_000

COLUMNS = (
    "ours", "ours, asleep", "dnsperf", "ratio", "both CPUs: ours, asleep", "dnsperf", "ratio", f"slip p50 at {HIGH_QPS:,}/s", "p99",
)


def compare_latency(servers: list[Server], binary: Path, asking: Asking, cpus: tuple[int, int], rounds: int) -> dict[str, dict]:
    """Mean latencies in microseconds by server, medians over the rounds, with the samples."""
    rows = {}
    for server in servers:
        samples = [sample(server, binary, asking, cpus) for _ in range(rounds)]
        rows[server.name] = {key: median(one[key] for one in samples) for key in samples[0]} | {"samples": samples}
    return rows


def sample(server: Server, binary: Path, asking: Asking, cpus: tuple[int, int]) -> dict[str, float]:
    """One round. dnsperf has two threads, which sleep. So ours that is compared with it sleeps, too, and where dnsperf has a CPU
    for each thread, ours has as many of both: on one CPU sending and receiving wait for each other, and that is in latencies."""
    one, two = str(asking.cpu), f"{cpus[0]},{cpus[1]}"
    spinning = mean_us(ours(server, binary, asking, one, COMPARED_QPS))
    asleep = mean_us(ours(server, binary, asking, one, COMPARED_QPS, "--wait", "sleep"))
    theirs = dnsperf(server, asking, one)
    asleep_2 = mean_us(ours(server, binary, asking, two, COMPARED_QPS, "--wait", "sleep", "-T", "2", "-c", "2"))
    theirs_2 = dnsperf(server, asking, two)
    high = ours(server, binary, asking, one, HIGH_QPS)
    return {
        "ours_us": spinning,
        "asleep_us": asleep,
        "dnsperf_us": theirs,
        "asleep_2_us": asleep_2,
        "dnsperf_2_us": theirs_2,
        "slip_p50_us": high["slip_us"]["p50"],
        "slip_p99_us": high["slip_us"]["p99"],
    }


def mean_us(told: dict) -> float:
    return told["latency_us"]["all"]["mean"]


def ours(server: Server, binary: Path, asking: Asking, cpus: str, qps: int, *options: str) -> dict:
    command = [str(binary), "bench", "--accept-invalid", "--json", "-", *letters(server, asking, qps), *options]
    return json.loads(run(command, asking, cpus))


def dnsperf(server: Server, asking: Asking, cpus: str) -> float:
    said = run(["dnsperf", *letters(server, asking, COMPARED_QPS)], asking, cpus)
    found = re.search(r"Average Latency \(s\):\s+([0-9.]+)", said)
    if not found:
        raise Fault(f"{Dnsperf.name}: its output cannot be read:\n{said[-500:]}")
    return float(found[1]) * 1e6


def letters(server: Server, asking: Asking, qps: int) -> list[str]:
    words = {"-s": "127.0.0.1", "-p": server.port, "-d": asking.queries, "-l": asking.seconds, "-Q": qps}
    return [str(word) for letter in words.items() for word in letter]


def run(command: list[str], asking: Asking, cpus: str) -> str:
    pinned = ["setpriv", "--pdeathsig", "TERM", "taskset", "--cpu-list", cpus, *command]
    done = subprocess.run(pinned, capture_output=True, text=True, timeout=asking.seconds + GRACE_S)
    if done.returncode:
        raise Fault(f"{command[0]}: exit status {done.returncode}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


def render(rows: dict[str, dict]) -> str:
    """The rows as text."""
    lines = [("server", *COLUMNS)]
    for name, row in rows.items():
        lines.append((
            name,
            f"{row['ours_us']:.1f}",
            f"{row['asleep_us']:.1f}",
            f"{row['dnsperf_us']:.1f}",
            f"{row['asleep_us'] / row['dnsperf_us']:.2f}",
            f"{row['asleep_2_us']:.1f}",
            f"{row['dnsperf_2_us']:.1f}",
            f"{row['asleep_2_us'] / row['dnsperf_2_us']:.2f}",
            f"{row['slip_p50_us']:.1f}",
            f"{row['slip_p99_us']:.1f}",
        ))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))])
        for line in lines
    )
