"""Network namespaces without names: the kernel deletes each as soon as no process, socket or descriptor uses it.

So nothing is left behind, however this program ends.
"""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from bench_servers import Fault

CLONE_NEWNET = 0x4000_0000
OWN = "/proc/thread-self/ns/net"
libc = ctypes.CDLL(None, use_errno=True)


def check(returned: int) -> None:
    if returned:
        error = ctypes.get_errno()
        raise Fault(f"network namespaces cannot be made: {os.strerror(error)}; it takes root", 2)


class Space:
    """One namespace, in which loopback is up."""

    def __init__(self) -> None:
        own = os.open(OWN, os.O_RDONLY)
        try:
            check(libc.unshare(CLONE_NEWNET))
            self.descriptor = os.open(OWN, os.O_RDONLY)
            check(libc.setns(own, CLONE_NEWNET))
        finally:
            os.close(own)
        self.ip("link set lo up")

    def __enter__(self) -> "Space":
        return self

    def __exit__(self, *_) -> None:
        os.close(self.descriptor)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """This thread's new sockets, threads and processes are of the namespace."""
        own = os.open(OWN, os.O_RDONLY)
        try:
            check(libc.setns(self.descriptor, CLONE_NEWNET))
            try:
                yield
            finally:
                check(libc.setns(own, CLONE_NEWNET))
        finally:
            os.close(own)

    def path(self) -> str:
        """The namespace, for programs that take its file."""
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    def run(self, command: list[str], text: str = "") -> str:
        with self.inside():
            done = subprocess.run(command, input=text, capture_output=True, text=True)
        if done.returncode:
            raise Fault(f"{' '.join(command)}: {done.stderr.strip()}; its input was:\n{text}")
        return done.stdout

    def ip(self, *lines: str) -> None:
        """Runs these commands of `ip` in one process, so that as little time as can be is between them."""
        self.run(["ip", "-batch", "-"], "".join(f"{line}\n" for line in lines))

    def drop(self, *packets: str) -> None:
        """Drops what comes in and is one of these, as nftables says it, from now on.

        On loopback all that is sent comes in; if it were dropped on its way out, that would be an error for who sends it.
        """
        chain = "\n".join(["type filter hook input priority 0;", *(f"{which} drop" for which in packets)])
        self.run(["nft", "-f", "-"], f"table inet faults {{\nchain input {{\n{chain}\n}}\n}}\n")

    def streams_to(self, port: int) -> list[int]:
        """The local ports of the established connections to this port."""
        table = self.run(["cat", "/proc/thread-self/net/tcp"])
        rows = (line.split() for line in table.splitlines()[1:])
        ends = ((int(row[1].split(":")[1], 16), int(row[2].split(":")[1], 16)) for row in rows if row[3] == "01")
        return [local for local, remote in ends if remote == port]


def join(near: Space, far: Space) -> None:
    """Lays a wire between both: devices `near` and `far`, which are up."""
    near.ip(f"link add near type veth peer name far netns {far.path()}", "link set near up")
    far.ip("link set far up")
