"""What is lost and late, beside the others and beside what is asked."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from .questions import Outcome
from .scenes import LATE_S, Case

# A lost datagram or a pause of a shared machine costs so much; less is no difference.
SLACK_MS = 200.0
# What is slower is among the troubles.
SLOW_S = 0.05
COLUMNS = ("scene", "case", "server", "questions", "lost", "late", "slowest ms", "")


@dataclass
class Row:
    """One server in one case, all rounds together."""

    case: Case
    server: str
    rounds: int = 0
    questions: int = 0
    lost: int = 0
    late: int = 0
    late_in_worst_round: int = 0
    slowest_ms: float | None = None
    # Every question that was lost or slow: its round, its time in it, its name, and what came.
    troubles: list[dict] = field(default_factory=list)

    def add(self, outcomes: Sequence[Outcome]) -> None:
        self.rounds += 1
        late = 0
        for outcome in outcomes:
            self.questions += 1
            took_s = outcome.took_s
            lost = not outcome.right() or took_s is None or took_s > self.case.lost_s
            self.lost += lost
            late += not lost and took_s > LATE_S
            if not lost:
                self.slowest_ms = max(self.slowest_ms or 0.0, took_s * 1e3)
            if lost or took_s > SLOW_S:
                self.troubles.append({
                    "round": self.rounds,
                    "at_s": outcome.question.at_s,
                    "name": outcome.question.name,
                    "reply": str(outcome.reply) if outcome.reply else None,
                    "took_ms": took_s and took_s * 1e3,
                })
        self.late += late
        self.late_in_worst_round = max(self.late_in_worst_round, late)

    def is_redbreast(self) -> bool:
        return self.server.startswith("redbreast")

    def faults(self, peers: Sequence["Row"]) -> list[str]:
        """In what it misses what is asked, or is worse than the better of the others."""
        asked = self.case.asked
        found = []
        if self.lost > asked.lost or self.slowest_ms is None:
            found.append(f"asked: lost {asked.lost}")
        if asked.late is not None and self.late_in_worst_round > asked.late:
            found.append(f"asked: late {asked.late} in a round")
        if asked.slowest_ms is not None and (self.slowest_ms or 0.0) > asked.slowest_ms:
            found.append(f"asked: slowest {asked.slowest_ms:.0f} ms")
        best = min(peers, key=lambda peer: (peer.lost, peer.late, peer.slowest_ms or 0.0))
        if (self.lost, self.late) > (best.lost, best.late):
            found.append(f"worse than {best.server}: lost or late")
        elif (self.lost, self.late) == (best.lost, best.late) and (self.slowest_ms or 0.0) > (best.slowest_ms or 0.0) + SLACK_MS:
            found.append(f"worse than {best.server}: slowest")
        return found

    def told(self) -> dict:
        figures = ("server", "rounds", "questions", "lost", "late", "slowest_ms", "troubles")
        return {"scene": self.case.scene, "case": self.case.name, **{name: getattr(self, name) for name in figures}}


def judge(rows: Sequence[Row]) -> list[dict]:
    """The rows as results, each with its faults; others than Redbreast have none."""
    results = []
    for row in rows:
        peers = [it for it in rows if it.case is row.case and not it.is_redbreast()]
        results.append(row.told() | {"faults": row.faults(peers) if row.is_redbreast() else []})
    return results


def render(results: Sequence[dict], not_asked: Sequence[tuple[str, str, str]]) -> str:
    """The table; a server that a case is not for has dashes."""
    lines = [COLUMNS]
    for result in results:
        slowest = "-" if result["slowest_ms"] is None else f"{result['slowest_ms']:.0f}"
        figures = (f"{result[name]}" for name in ("questions", "lost", "late"))
        lines.append((result["scene"], result["case"], result["server"], *figures, slowest, "; ".join(result["faults"])))
    lines += [(*row, "-", "-", "-", "-", "") for row in not_asked]
    order = {row[:2]: at for at, row in reversed(list(enumerate(lines)))}
    lines.sort(key=lambda row: order[row[:2]])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(line[:3], widths)),
                   *(cell.rjust(width) for cell, width in zip(line[3:7], widths[3:7])), line[7]]).rstrip()
        for line in lines
    )
