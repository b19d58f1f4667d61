"""What updates cost the answers: the names file is replaced again and again while the load runs."""

import os
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from .load import Asking, Generator
from .names import Names
from .rounds import interleave, sample, summary
from .servers import Redbreast

UPDATES_PER_S = 10
UNDISTURBED, UPDATED = "undisturbed", f"{UPDATES_PER_S} updates/s"


class Rewriter(AbstractContextManager):
    """Replaces the names file at a steady pace, each time by one in which another address is behind one name.

    The versions are written beforehand and moved in place by a link and a rename, so that what is measured is the
    server taking them in and not this program making them.
    """

    def __init__(self, names: Names, hosts: Path):
        self.hosts = hosts
        self.versions = [hosts.with_name(f"hosts.{i}") for i in range(2)]
        for i, version in enumerate(self.versions):
            names.write_hosts(version)
            with version.open("a") as file:
                file.write(f"10.255.255.{i + 1} moving\n")
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.rewrite, daemon=True)

    def rewrite(self) -> None:
        count = 0
        while not self.stopping.wait(1 / UPDATES_PER_S):
            place = self.hosts.with_name("hosts.next")
            os.link(self.versions[count % 2], place)
            os.replace(place, self.hosts)
            count += 1

    def __enter__(self) -> "Rewriter":
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.stopping.set()
        self.thread.join()


def compare_updates(server: Redbreast, generator: Generator, asking: Asking, rounds: int) -> dict[str, dict]:
    """The same server with and without updates; the ratio is to without."""
    rows: Sequence[str] = (UNDISTURBED, UPDATED)

    def measure(row: str):
        with Rewriter(server.names, server.hosts()) if row == UPDATED else nullcontext():
            return sample(server, generator, asking)

    samples = interleave(rows, rounds, lambda row: row, measure)
    return {row: summary(those, samples[UNDISTURBED]) for row, those in samples.items()}
