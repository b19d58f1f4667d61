"""The little DNS needed to see whether a server answers rightly, independent of all that is measured."""

import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

NOERROR, NXDOMAIN = 0, 3
TYPE_A, CLASS_IN = 1, 1
QR_BIT = 0x8000
HEADER = struct.Struct("!6H")
RECORD = struct.Struct("!HHIH")
REPLY_BYTES_MAX = 4096


@dataclass(frozen=True)
class Reply:
    """What a server said: its response code and the addresses in its answer section."""

    rcode: int
    addresses: list[str]

    def __str__(self) -> str:
        code = {NOERROR: "NOERROR", NXDOMAIN: "NXDOMAIN", 2: "SERVFAIL", 5: "REFUSED"}.get(self.rcode, self.rcode)
        return f"{code} {' '.join(self.addresses)}".rstrip()


def ask(port: int, name: str, timeout_s: float) -> Reply | None:
    """Asks 127.0.0.1 for the A records of `name`; None when no response comes in time."""
    query = HEADER.pack(0x5242, 0x0100, 1, 0, 0, 0) + encode(name) + struct.pack("!HH", TYPE_A, CLASS_IN)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(timeout_s)
        client.connect(("127.0.0.1", port))
        try:
            client.send(query)
            return parse(client.recv(REPLY_BYTES_MAX))
        except (ConnectionRefusedError, TimeoutError):
            return None


def encode(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def parse(message: bytes) -> Reply | None:
    """Reads a response; None when it is not one."""
    try:
        _, flags, questions, answers, _, _ = HEADER.unpack_from(message)
        at = HEADER.size
        for _ in range(questions):
            at = skip_name(message, at) + 4
        addresses = []
        for _ in range(answers):
            at = skip_name(message, at)
            kind, _, _, length = RECORD.unpack_from(message, at)
            at += RECORD.size
            if kind == TYPE_A:
                addresses.append(str(IPv4Address(message[at : at + length])))
            at += length
    except (struct.error, IndexError, ValueError):
        return None
    return Reply(flags & 0xF, addresses) if flags & QR_BIT else None


def skip_name(message: bytes, at: int) -> int:
    """The offset behind the name at `at`: its root label, or the two bytes of a compression pointer."""
    while 0 < message[at] < 0xC0:
        at += 1 + message[at]
    return at + (2 if message[at] else 1)
