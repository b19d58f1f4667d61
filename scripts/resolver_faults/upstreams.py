"""Scripted upstreams: they answer questions for addresses, and no others."""

import errno
import selectors
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from bench_servers import Fault

LOOPBACK = "127.0.0.1"
ADDRESS = "198.18.0.9"
TLS_NAME = "dns.example"
TTL_S = 300
A, HTTPS, IN = 1, 65, 1
POLL_S = 0.002
# How long a port is waited for.
FREE_S = 0.2
# Names that begin so are never answered.
SILENT = "silent"
OPT = b"\0\0\x29\x04\xd0\0\0\0\0\0\0"
NO_LINGER = struct.pack("ii", 1, 0)


def answer(query: bytes) -> bytes | None:
    """The address, for any other name; with OPT where the question has one, as a server that knows EDNS."""
    end = query.find(b"\0", 12) + 5
    if end < 17 or struct.unpack_from("!HH", query, end - 4) != (A, IN) or query[13:].startswith(SILENT.encode()):
        return None
    with_opt = query[11] > 0
    counts = struct.pack("!4H", 1, 1, 0, int(with_opt))
    record = b"\xc0\x0c" + struct.pack("!HHIH", A, IN, TTL_S, 4) + socket.inet_aton(ADDRESS)
    return query[:2] + b"\x81\x80" + counts + query[12:end] + record + (OPT if with_opt else b"")


class Plain:
    """Answers over UDP and TCP. It can be away: its port is closed meanwhile, so its host says that nobody is there."""

    def __init__(self, address: str = LOOPBACK):
        self.selector = selectors.DefaultSelector()
        self.listen(address)
        self.ended = threading.Event()
        self.away = threading.Event()
        self.error: OSError | None = None
        self.thread = threading.Thread(target=self.serve, daemon=True)

    def __enter__(self) -> "Plain":
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.ended.set()
        self.thread.join()
        self.close()
        self.selector.close()

    def listen(self, address: str, port: int = 0) -> None:
        """At this port, or one that is free for both. It may be taken for a moment: a server can be given it for one of its own
        questions, by chance."""
        deadline = time.monotonic() + FREE_S
        while True:
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                udp.bind((address, port))
                self.address, self.port = udp.getsockname()
                listener = socket.create_server((self.address, self.port))
                break
            except OSError as error:
                udp.close()
                if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                    raise
                time.sleep(POLL_S)
        self.selector.register(udp, selectors.EVENT_READ, self.on_datagram)
        self.selector.register(listener, selectors.EVENT_READ, self.on_connection)

    def close(self) -> None:
        for key in list(self.selector.get_map().values()):
            self.leave(key.fileobj)

    def leave(self, it: socket.socket) -> None:
        self.selector.unregister(it)
        it.close()

    def serve(self) -> None:
        try:
            while not self.ended.is_set():
                if self.away.is_set():
                    self.close()
                    while self.away.is_set() and not self.ended.is_set():
                        time.sleep(POLL_S)
                    self.listen(self.address, self.port)
                for key, _ in self.selector.select(POLL_S):
                    key.data(key.fileobj)
        except OSError as error:
            self.error = error

    @staticmethod
    def on_datagram(udp: socket.socket) -> None:
        # An answer that has no way back is lost, as on a wire.
        with suppress(OSError):
            query, client = udp.recvfrom(1500)
            if reply := answer(query):
                udp.sendto(reply, client)

    def on_connection(self, listener: socket.socket) -> None:
        with suppress(OSError):
            connection, _ = listener.accept()
            self.selector.register(connection, selectors.EVENT_READ, partial(self.on_stream, Framed()))

    def on_stream(self, framed: "Framed", connection: socket.socket) -> None:
        try:
            more = connection.recv(4096)
            for query in framed.add(more):
                if reply := answer(query):
                    connection.sendall(struct.pack("!H", len(reply)) + reply)
        except OSError:
            more = b""
        if not more:
            self.leave(connection)

    def check(self) -> None:
        if self.error:
            raise Fault(f"the upstream at port {self.port} could not go on: {self.error}")


class Framed:
    """The messages of a stream, each after its length (RFC 1035 §4.2.2)."""

    def __init__(self) -> None:
        self.held = b""

    def add(self, more: bytes) -> Iterator[bytes]:
        """What is whole with these bytes."""
        self.held += more
        while len(self.held) >= 2 and len(self.held) >= (end := 2 + int.from_bytes(self.held[:2], "big")):
            message, self.held = self.held[2:end], self.held[end:]
            yield message


class Certificate:
    """One for TLS_NAME, by an authority of its own."""

    def __init__(self, directory: Path):
        self.authority, self.chain, self.key = (directory / name for name in ("ca.pem", "chain.pem", "key.pem"))
        request, extensions, authority_key = (directory / name for name in ("request", "extensions", "ca.key"))
        extensions.write_text(f"subjectAltName=DNS:{TLS_NAME}\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n")
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        openssl("req", "-x509", *curve, "-keyout", authority_key, "-out", self.authority, "-days", "2", "-subj", "/CN=faults",
                "-addext", "keyUsage=critical,keyCertSign")
        openssl("req", *curve, "-keyout", self.key, "-out", request, "-subj", f"/CN={TLS_NAME}")
        openssl("x509", "-req", "-in", request, "-CA", self.authority, "-CAkey", authority_key, "-out", self.chain, "-days", "2",
                "-extfile", extensions)


def openssl(*words: str | Path) -> None:
    done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise Fault(f"openssl {words[0]}: {done.stderr.strip()}")


class Streams:
    """Answers over TLS, each connection in a thread of its own.

    What it does with connections is said while it runs: `resets` is how many of the next connections are reset at their first
    question; `closes` says how each is closed after its first answer, if at all.
    """

    CLOSE_CLEANLY, CLOSE_AT_ONCE = "cleanly", "at once"

    def __init__(self, certificate: Certificate, address: str = LOOPBACK):
        self.authority = certificate.authority
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate.chain, certificate.key)
        self.listener = socket.create_server((address, 0), backlog=128)
        self.address, self.port = self.listener.getsockname()
        self.closes: str | None = None
        self.lock = threading.Lock()
        self.resets = 0
        self.have_been_reset = 0
        self.open: set[socket.socket] = set()
        self.threads: list[threading.Thread] = []
        self.thread = threading.Thread(target=self.serve, daemon=True)

    def __enter__(self) -> "Streams":
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        # This wakes up who waits in accept(2), as close(2) does not.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listener.close()
        self.close_all()
        for thread in self.threads:
            thread.join(1)

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(target=self.talk, args=(connection,), daemon=True)
            self.threads.append(thread)
            thread.start()

    def close_all(self) -> None:
        """Ends all connections that are open, as a server that is tired of them."""
        with self.lock:
            for connection in self.open:
                # Not that of SSLSocket: it would have the thread that talks there go on in plain text.
                with suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def talk(self, connection: socket.socket) -> None:
        stream: socket.socket = connection
        try:
            stream = self.context.wrap_socket(connection, server_side=True)
            with self.lock:
                self.open.add(stream)
            first = True
            for query in messages(stream):
                with self.lock:
                    reset = first and self.resets > 0
                    self.resets -= reset
                    self.have_been_reset += reset
                first = False
                if reset:
                    # The kernel sends RST for a socket that does not linger.
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
                    return
                if reply := answer(query):
                    stream.sendall(struct.pack("!H", len(reply)) + reply)
                if self.closes:
                    self.leave(stream)
                    return
        except (OSError, EOFError):
            pass
        finally:
            with self.lock:
                self.open.discard(stream)
            stream.close()

    def leave(self, stream: ssl.SSLSocket) -> None:
        """Cleanly: with close_notify and FIN, and what comes after that is read and dropped until the other side closes, too.
        At once: what has come and was not read makes the kernel send RST."""
        if self.closes != self.CLOSE_CLEANLY:
            return
        with suppress(ssl.SSLError):
            stream.settimeout(0)
            stream.unwrap()
        stream.settimeout(5)
        stream.shutdown(socket.SHUT_WR)
        while socket.socket.recv(stream, 4096):
            pass


def messages(stream: ssl.SSLSocket) -> Iterator[bytes]:
    """Those of one connection, until it ends."""
    framed = Framed()
    while more := stream.recv(4096):
        yield from framed.add(more)
