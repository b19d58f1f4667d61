"""The load generators: each asks the query file of one server for a while and says how that went."""

import json
import re
import resource
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from . import Fault
from .process import pinned

# What a generator may take beyond its seconds: to read the query file, and to wait for the last answers (dnsperf: 5 s).
GRACE_S = 30.0


@dataclass(frozen=True)
class Load:
    """How one run of a load generator went."""

    qps: float
    sent: int
    completed: int
    lost: int
    run_time_s: float
    cpu_s: float

    def __add__(self, later: "Load") -> "Load":
        completed, run_time_s = self.completed + later.completed, self.run_time_s + later.run_time_s
        sent, lost = self.sent + later.sent, self.lost + later.lost
        return Load(completed / run_time_s, sent, completed, lost, run_time_s, self.cpu_s + later.cpu_s)


# More clients than that are addresses of this prefix each, over a few sockets.
SOCKETS_MAX = 1_000
SOURCES = "127.16.0.0/16"


@dataclass(frozen=True)
class Asking:
    """How a load generator asks, whichever it is."""

    seconds: float
    clients: int
    outstanding: int
    cpu: int
    queries: Path

    def client_letters(self) -> dict[str, object]:
        """The letters that say how many clients there are, and what each is."""
        letters: dict[str, object] = {"-c": self.clients}
        return letters | ({"--sources": SOURCES} if self.clients > SOCKETS_MAX else {})

    def in_turns(self, turns: int) -> "Asking":
        """The same for one turn of so many."""
        return replace(self, seconds=self.seconds / turns)


class Generator:
    """A load generator that takes dnsperf's letters."""

    name: str

    def __init__(self, command: list[str]):
        self.command = command

    def run(self, port: int, asking: Asking) -> Load:
        said, cpu_s = self.execute(port, asking)
        try:
            return self.read(said, cpu_s)
        except (ValueError, KeyError, TypeError) as error:
            raise Fault(f"{self.name}: its output cannot be read ({error!r}):\n{said[-500:]}") from error

    def execute(self, port: int, asking: Asking) -> tuple[str, float]:
        """Runs the generator; returns what it printed and the CPU time it used."""
        letters = {"-s": "127.0.0.1", "-p": port, "-d": asking.queries, "-l": asking.seconds}
        letters |= asking.client_letters() | {"-q": asking.outstanding}
        command = [*self.command, *(str(word) for letter in letters.items() for word in letter), *self.extra()]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        try:
            done = subprocess.run(
                pinned(asking.cpu, command), capture_output=True, text=True, timeout=asking.seconds + GRACE_S
            )
        except subprocess.TimeoutExpired as error:
            raise Fault(f"{self.name}: still running {GRACE_S:.0f} s after its time") from error
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise Fault(f"{self.name}: exit status {done.returncode}: {(done.stderr or done.stdout).strip()[-500:]}")
        return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def extra(self) -> list[str]:
        return []

    def read(self, said: str, cpu_s: float) -> Load:
        raise NotImplementedError


class RedbreastBench(Generator):
    name = "redbreast bench"

    def __init__(self, binary: Path):
        super().__init__([str(binary), "bench"])

    def extra(self) -> list[str]:
        # Whether the generator was the limit stands in the table: its CPU, beside the server's.
        return ["--json", "-", "--accept-invalid"]

    def read(self, said: str, cpu_s: float) -> Load:
        result = json.loads(said)
        totals = result["totals"]
        if totals["wrong"]:
            raise Fault(f"{self.name}: {totals['wrong']} answers were wrong")
        return Load(
            float(result["qps"]),
            int(totals["sent"]),
            int(totals["completed"]),
            int(totals["lost"]),
            float(result["run_time_s"]),
            cpu_s,
        )


class Dnsperf(Generator):
    name = "dnsperf"
    package = "dnsperf"

    def __init__(self):
        super().__init__(["dnsperf"])

    @staticmethod
    def installed() -> bool:
        return shutil.which("dnsperf") is not None

    def read(self, said: str, cpu_s: float) -> Load:
        def figure(label: str) -> float:
            found = re.search(rf"^\s*{re.escape(label)}:\s+([0-9.]+)", said, re.MULTILINE)
            if not found:
                raise ValueError(f"no line '{label}:'")
            return float(found[1])

        return Load(
            figure("Queries per second"),
            int(figure("Queries sent")),
            int(figure("Queries completed")),
            int(figure("Queries lost")),
            figure("Run time (s)"),
            cpu_s,
        )


class BareLoop(Generator):
    """A loop in C that does nothing but send and receive: what there is to be had of the machine."""

    name = "bare C loop"

    def __init__(self, directory: Path):
        source = Path(__file__).parent / "bare_loop.c"
        self.binary = directory / "bare_loop"
        try:
            subprocess.run(["gcc", "-O2", "-o", self.binary, source], check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Fault(f"{self.name}: cannot be compiled: {getattr(error, 'stderr', '') or error}") from error
        super().__init__([str(self.binary)])

    @staticmethod
    def installed() -> bool:
        return shutil.which("gcc") is not None

    def execute(self, port: int, asking: Asking) -> tuple[str, float]:
        packets = self.binary.with_suffix(".packets")
        packets.write_bytes(b"".join(packet(line) for line in asking.queries.read_text().splitlines()))
        command = [str(self.binary), str(port), str(packets), str(asking.seconds), str(asking.outstanding)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            pinned(asking.cpu, command), capture_output=True, text=True, timeout=asking.seconds + GRACE_S
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise Fault(f"{self.name}: exit status {done.returncode}: {done.stderr.strip()}")
        return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def read(self, said: str, cpu_s: float) -> Load:
        sent, answered, run_time_s = said.split()
        lost = int(sent) - int(answered)
        return Load(int(answered) / float(run_time_s), int(sent), int(answered), lost, float(run_time_s), cpu_s)


def packet(line: str) -> bytes:
    """A query as bytes behind its length, from a line `name type`."""
    name, qtype = line.split()
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split("."))
    kind = {"A": 1, "AAAA": 28}[qtype]
    query = bytes([0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]) + labels + bytes([0, 0, kind, 0, 1])
    return len(query).to_bytes(2, "big") + query


class DnsperfTcp(Dnsperf):
    """The same over TCP: the field's tool for it, until ours can."""

    name = "dnsperf -m tcp"

    def extra(self) -> list[str]:
        return ["-m", "tcp"]
