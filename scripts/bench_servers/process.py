"""One process started here: pinned to a CPU, logged to a file, its CPU time read, ended by its id."""

import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

LOG_LINES_SHOWN = 12
STOP_S = 5.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def pinned(cpu: int | None, command: list[str]) -> list[str]:
    """The command held to one CPU, if one is said, and ended by the kernel should this program be killed before it can do so.

    Both tools become the command that follows them, so the process id is the command's own.
    """
    to_cpu = [] if cpu is None else ["taskset", "--cpu-list", str(cpu)]
    return ["setpriv", "--pdeathsig", "TERM", *to_cpu, *command]


@dataclass(frozen=True)
class Usage:
    """CPU time used in user space and in the kernel, and time spent ready to run while others had the CPU."""

    user_s: float
    system_s: float
    waited_s: float

    def __add__(self, later: "Usage") -> "Usage":
        return Usage(
            self.user_s + later.user_s, self.system_s + later.system_s, self.waited_s + later.waited_s
        )

    def since(self, earlier: "Usage") -> "Usage":
        return Usage(
            self.user_s - earlier.user_s, self.system_s - earlier.system_s, self.waited_s - earlier.waited_s
        )


@dataclass(frozen=True)
class Stat:
    """What /proc tells of one process. Its start time tells it from a later process with the same id."""

    pid: int
    parent: int
    user_s: float
    system_s: float
    start_ticks: int

    @staticmethod
    def read(pid: int) -> "Stat | None":
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        # The command's name, in parentheses, may itself hold spaces and parentheses.
        fields = text[text.rindex(")") + 2 :].split()
        parent, user, system, start = (int(fields[i]) for i in (1, 11, 12, 19))
        return Stat(pid, parent, user / TICKS_PER_S, system / TICKS_PER_S, start)


class Process:
    """A process and its descendants; nsd answers from a child process, so those count as well."""

    def __init__(self, command: list[str], cpu: int | None, directory: Path):
        self.log = directory / "log"
        with self.log.open("wb") as log:
            # A session of its own: Ctrl-C reaches only this program, which then ends all in order.
            self.child = subprocess.Popen(
                pinned(cpu, command),
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ended(self) -> str | None:
        """How the process ended; None while it runs."""
        status = self.child.poll()
        if status is None:
            return None
        return f"exit status {status}" if status >= 0 else f"signal {-status}"

    def log_tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        return "\n".join(f"    {line}" for line in lines) or "    (its log is empty)"

    def usage(self) -> Usage:
        """What the process and its descendants have used so far."""
        family = self.family()
        return Usage(
            sum(stat.user_s for stat in family),
            sum(stat.system_s for stat in family),
            sum(waited_s(stat.pid) for stat in family),
        )

    def memory_mib(self) -> float:
        """Resident memory of the process and its descendants; pages that they share count once, in equal parts."""
        return sum(memory_mib(stat.pid) for stat in self.family())

    def family(self) -> list[Stat]:
        """The process and its descendants."""
        everyone = [Stat.read(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        children: dict[int, list[Stat]] = {}
        for stat in filter(None, everyone):
            children.setdefault(stat.parent, []).append(stat)
        found = [stat for stat in [Stat.read(self.child.pid)] if stat]
        for stat in found:
            found += children.get(stat.pid, [])
        return found

    def stop(self) -> None:
        """Asks the process to end, then makes it, and makes every descendant it leaves behind."""
        family = self.family()
        self.child.terminate()
        try:
            self.child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        left = [stat for stat in family if stat.pid != self.child.pid]
        deadline = time.monotonic() + STOP_S
        while any(map(runs, left)) and time.monotonic() < deadline:
            time.sleep(0.01)
        for stat in filter(runs, left):
            os.kill(stat.pid, signal.SIGKILL)


def memory_mib(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    found = re.search(r"^Pss:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def waited_s(pid: int) -> float:
    """Seconds that the threads of a process have waited for a CPU; 0 where the kernel does not count them."""
    waited_ns = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            waited_ns += int(path.read_text().split()[1])
        except OSError:
            continue
    return waited_ns / 1e9


def runs(stat: Stat) -> bool:
    """Whether this very process, and not a later one with its id, still runs."""
    now = Stat.read(stat.pid)
    return now is not None and now.start_ticks == stat.start_ticks
