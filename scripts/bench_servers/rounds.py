"""Who is measured when, and what is kept of it.

A shared machine's speed wanders by tens of percent, within minutes and within seconds. So all that is compared is measured
in every round, a share of its seconds in each of several turns, in an order that rotates, and compared within the round; the
median of the rounds' ratios is the result.
"""

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

from . import Fault
from .load import Asking, Generator, Load
from .process import Usage
from .servers import Server

Item = TypeVar("Item")

# Turns of a round, where what is compared are rates.
TURNS = 6


@dataclass(frozen=True)
class Sample:
    """One server under one load, once."""

    load: Load
    server: Usage

    def __add__(self, later: "Sample") -> "Sample":
        return Sample(self.load + later.load, self.server + later.server)

    def server_cpu(self) -> float:
        """The share of its CPU that the server used; near 1, the server was the bottleneck."""
        return (self.server.user_s + self.server.system_s) / self.load.run_time_s

    def server_waited(self) -> float:
        """The share of the time that others held the server's CPU; above a few percent, trust no figure."""
        return self.server.waited_s / self.load.run_time_s

    def load_cpu(self) -> float:
        return self.load.cpu_s / self.load.run_time_s


def sample(server: Server, generator: Generator, asking: Asking) -> Sample:
    before = server.process.usage()
    load = generator.run(server.port, asking)
    used = server.process.usage().since(before)
    server.check_alive()
    if load.completed == 0:
        raise Fault(f"{server.name}: not one query of {load.sent} was answered\n{server.process.log_tail()}")
    return Sample(load, used)


def interleave(
    items: Sequence[Item], rounds: int, name: Callable[[Item], str], measure: Callable[[Item], Sample], turns: int = 1
) -> dict[str, list[Sample]]:
    """Measures every item in each turn of each round, and adds up those of a round; the samples by the items' names.

    Each turn begins one item further.
    """
    samples: dict[str, list[Sample]] = {name(item): [] for item in items}
    for number in range(rounds):
        round_of: dict[str, Sample] = {}
        for turn in range(turns):
            first = (number + turn) % len(items)
            for item in (*items[first:], *items[:first]):
                show_progress(f"round {number + 1} of {rounds}: {name(item)}")
                measured = measure(item)
                before = round_of.get(name(item))
                round_of[name(item)] = before + measured if before else measured
        for row, sample_of_round in round_of.items():
            samples[row].append(sample_of_round)
    show_progress("")
    return samples


def show_progress(text: str) -> None:
    """Overwrites the terminal's line; says nothing in a pipe."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def ratios(samples: list[Sample], base: list[Sample]) -> dict[str, float]:
    """The rates of one over those of another, round by round."""
    each = [one.load.qps / other.load.qps for one, other in zip(samples, base, strict=True)]
    return {"median": statistics.median(each), "min": min(each), "max": max(each)}


def summary(samples: list[Sample], base: list[Sample]) -> dict:
    """The figures of one row, and the samples they come from.

    CPU time per query is that of all rounds together: the kernel tells user space from itself by looking on each tick,
    and the few looks of one round say little about a small share.
    """
    completed = sum(sample.load.completed for sample in samples)

    def median(figure: Callable[[Sample], float]) -> float:
        return statistics.median(map(figure, samples))

    def ns_per_query(seconds: Callable[[Sample], float]) -> float:
        return sum(map(seconds, samples)) * 1e9 / completed

    return {
        "qps": median(lambda sample: sample.load.qps),
        "ratio": ratios(samples, base),
        "user_ns_per_query": ns_per_query(lambda sample: sample.server.user_s),
        "system_ns_per_query": ns_per_query(lambda sample: sample.server.system_s),
        "server_cpu": median(Sample.server_cpu),
        "server_waited": median(Sample.server_waited),
        "load_cpu": median(Sample.load_cpu),
        "lost": sum(sample.load.lost for sample in samples),
        "samples": [asdict(sample) for sample in samples],
    }
