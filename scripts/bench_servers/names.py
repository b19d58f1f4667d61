"""The names served and the queries asked: the same for every server."""

import random
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

DOMAIN = "redbreast.internal"
FIRST_ADDRESS = IPv4Address("10.0.0.1")
# Keeps the addresses within 10.0.0.0/8 and the numbers within the seven digits of a name.
COUNT_MAX = 4_000_000
# Any fixed number: every run, on every machine, asks the same queries in the same order.
SHUFFLE_SEED = 20141105
# gdnsd takes nothing below 5 s; the rest is of no consequence to a load that caches nothing.
TTL_S = 60


@dataclass(frozen=True)
class Names:
    """`count` names that exist, and as many that do not, all of the same length so that no queries are dearer."""

    count: int

    def known(self, i: int) -> str:
        return f"h{i:07d}.{DOMAIN}"

    def unknown(self, i: int) -> str:
        return f"x{i:07d}.{DOMAIN}"

    def address(self, i: int) -> str:
        return str(FIRST_ADDRESS + i)

    def write_queries(self, path: Path) -> None:
        """Writes the query file: half for names that exist, half for names that do not, shuffled."""
        lines = [f"{name(i)} A\n" for i in range(self.count) for name in (self.known, self.unknown)]
        random.Random(SHUFFLE_SEED).shuffle(lines)
        path.write_text("".join(lines))

    def write_hosts(self, path: Path) -> None:
        """Writes the names in the format of /etc/hosts."""
        with path.open("w") as file:
            file.writelines(f"{self.address(i)} {self.known(i)}\n" for i in range(self.count))

    def records(self):
        """The records of the zone, one a line, as any zone-file reader takes them."""
        yield f"{DOMAIN}. {TTL_S} IN SOA ns.{DOMAIN}. hostmaster.{DOMAIN}. 1 3600 900 604800 {TTL_S}"
        yield f"{DOMAIN}. {TTL_S} IN NS ns.{DOMAIN}."
        yield f"ns.{DOMAIN}. {TTL_S} IN A 127.0.0.1"
        for i in range(self.count):
            yield f"{self.known(i)}. {TTL_S} IN A {self.address(i)}"

    def write_zone(self, path: Path) -> None:
        """Writes the names as a zone file."""
        with path.open("w") as file:
            file.writelines(f"{record}\n" for record in self.records())
