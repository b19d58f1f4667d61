"""What updates cost the answers: the names file is replaced again and again while the load runs."""

import os
import shutil
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from . import Fault, dns
from .load import Asking, Generator
from .names import DOMAIN
from .rounds import interleave, sample, summary
from .servers import Redbreast

UPDATES_PER_S = 10
# The name whose address changes, and how long the server may take to say so.
MOVING = "moving"
TAKEN_IN_S = 2.0
UNDISTURBED, UPDATED = "undisturbed", f"{UPDATES_PER_S} updates/s"


class Rewriter(AbstractContextManager):
    """Replaces the names file at a steady pace, each time by one in which another address is behind one name.

    The versions are written beforehand and moved in place by a copy and a rename, so that what is measured is the
    server taking them in and not this program making them. At the end the server must have taken in the last one.
    """

    def __init__(self, server: Redbreast):
        self.server = server
        self.versions = [server.hosts().with_name(f"hosts.{i}") for i in range(2)]
        for i, version in enumerate(self.versions):
            server.names.write_hosts(version)
            with version.open("a") as file:
                file.write(f"{self.address(i)} {MOVING}\n")
        self.count = 0
        self.error: OSError | None = None
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.rewrite, daemon=True)

    @staticmethod
    def address(count: int) -> str:
        return f"10.255.255.{count % 2 + 1}"

    def rewrite(self) -> None:
        place = self.server.hosts().with_name("hosts.next")
        try:
            while not self.stopping.wait(1 / UPDATES_PER_S):
                shutil.copyfile(self.versions[self.count % 2], place)
                os.replace(place, self.server.hosts())
                self.count += 1
        except OSError as error:
            self.error = error

    def __enter__(self) -> "Rewriter":
        self.begin = time.monotonic()
        self.thread.start()
        return self

    def __exit__(self, kind, *_) -> None:
        self.stopping.set()
        self.thread.join()
        if kind is not None:
            return
        if self.error:
            raise Fault(f"the names file could not be replaced: {self.error}")
        expected = (time.monotonic() - self.begin) * UPDATES_PER_S
        if self.count < 0.8 * expected:
            raise Fault(f"only {self.count} of {expected:.0f} updates were made: the machine is too busy")
        self.await_last()

    def await_last(self) -> None:
        last = dns.Reply(dns.NOERROR, [self.address(self.count - 1)])
        deadline = time.monotonic() + TAKEN_IN_S
        while (reply := dns.ask(self.server.port, f"{MOVING}.{DOMAIN}", TAKEN_IN_S)) != last:
            if time.monotonic() > deadline:
                raise Fault(f"{self.server.name} did not take in the last update: expected {last}, got {reply}")
            time.sleep(0.01)


def compare_updates(server: Redbreast, generator: Generator, asking: Asking, rounds: int) -> dict[str, dict]:
    """The same server with and without updates; the ratio is to without."""
    rows: Sequence[str] = (UNDISTURBED, UPDATED)

    def measure(row: str):
        with Rewriter(server) if row == UPDATED else nullcontext():
            return sample(server, generator, asking)

    samples = interleave(rows, rounds, lambda row: row, measure)
    return {row: summary(those, samples[UNDISTURBED]) for row, those in samples.items()}
