"""Latency under load: each server in an open loop at parts of what it can do itself."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from . import Fault
from .load import GRACE_S, Asking
from .process import pinned
from .rounds import show_progress
from .servers import Server

# Parts of a server's own rate in a closed loop.
SHARES = (0.1, 0.5, 0.8)
FIGURES = ("p50", "p99", "p99_9", "max")


@dataclass(frozen=True)
class Point:
    """One server at one share of its rate."""

    server: Server
    share: float
    qps: int


def compare_loads(
    servers: list[Server], rates: dict[str, dict], binary: Path, asking: Asking, rounds: int
) -> dict[str, dict]:
    """Response times in microseconds by server and share: medians over the rounds, with the samples."""
    points = [
        Point(server, share, int(rates[server.name]["qps"] * share)) for share in SHARES for server in servers
    ]
    samples: dict[Point, list[dict]] = {point: [] for point in points}
    for number in range(rounds):
        first = number % len(points)
        for point in (*points[first:], *points[:first]):
            show_progress(f"round {number + 1} of {rounds}: {point.server.name} at {point.share:.0%}")
            samples[point].append(sample(point, binary, asking))
    show_progress("")
    rows: dict[str, dict] = {}
    for point, those in samples.items():
        figures = {figure: median(one[figure] for one in those) for figure in FIGURES}
        row = figures | {"qps": point.qps, "samples": those}
        row |= {total: sum(one[total] for one in those) for total in ("lost", "invalid")}
        rows.setdefault(point.server.name, {})[f"{point.share:.0%}"] = row
    return rows


def sample(point: Point, binary: Path, asking: Asking) -> dict:
    words = {"-s": "127.0.0.1", "-p": point.server.port, "-d": asking.queries, "-l": asking.seconds}
    words |= asking.client_letters() | {"-Q": point.qps, "-t": 1}
    command = [str(binary), "bench", "--accept-invalid", "--json", "-"]
    command += [str(word) for letter in words.items() for word in letter]
    done = subprocess.run(
        pinned(asking.cpu, command), capture_output=True, text=True, timeout=asking.seconds + GRACE_S
    )
    try:
        report = json.loads(done.stdout)
    except ValueError as error:
        raise Fault(f"redbreast bench: {(done.stderr or done.stdout).strip()[-500:]}") from error
    response = report["response_us"]
    figures = {figure: response[figure] for figure in FIGURES}
    # What the load says that it could not do itself, or could not take in, is not the server's.
    return figures | {"lost": report["totals"]["lost"], "invalid": not report["verdict"]["valid"]}


def render(rows: dict[str, dict]) -> str:
    """A line for each server and share."""
    lines = [("server", "load", "queries/s", "p50", "p99", "p99.9", "max", "lost", "invalid")]
    for share in (f"{share:.0%}" for share in SHARES):
        for name, row in rows.items():
            at = row[share]
            figures = (f"{at[figure]:,.1f}" for figure in FIGURES)
            invalid = f"{at['invalid']} of {len(at['samples'])}"
            lines.append((name, share, f"{at['qps']:,}", *figures, f"{at['lost']:,}", invalid))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))])
        for line in lines
    )
