"""A DNS server over QUIC (RFC 9250) by aioquic, which passes what it is asked on to another over TCP.

Arguments: port, certificate, key, the other's address and port, and then words for what it does beside that: `retry` has clients show
first that their address is theirs. Names that begin with `reset-`, `half-`, `twice-`, `close-` and `mute-` it treats so.
It says "ready" once it listens, "connection" for each handshake and "query NAME" for each query.
"""

import asyncio
import struct
import sys

from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import HandshakeCompleted, StreamDataReceived, StreamReset

DOQ_INTERNAL_ERROR = 1


def say(*words):
    print(*words, flush=True)


def name_of(message):
    labels, at = [], 12
    while message[at]:
        labels.append(message[at + 1 : at + 1 + message[at]].decode(errors="replace"))
        at += 1 + message[at]
    return ".".join(labels)


async def ask(other, frame):
    reader, writer = await asyncio.open_connection(*other)
    writer.write(frame)
    prefix = await reader.readexactly(2)
    answer = prefix + await reader.readexactly(struct.unpack("!H", prefix)[0])
    writer.close()
    return answer


class Protocol(QuicConnectionProtocol):
    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.frames, self.tasks = {}, set()

    def quic_event_received(self, event):
        if isinstance(event, HandshakeCompleted):
            say("connection", "resumed" if event.session_resumed else "new")
        elif isinstance(event, StreamReset):
            self.frames.pop(event.stream_id, None)
        elif isinstance(event, StreamDataReceived):
            frame = self.frames.pop(event.stream_id, b"") + event.data
            if not event.end_stream:
                self.frames[event.stream_id] = frame
                return
            task = asyncio.ensure_future(self.answer(event.stream_id, frame))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def answer(self, stream, frame):
        name = name_of(frame[2:])
        say("query", name, frame[2:4].hex())
        kind = name.split("-")[0]
        answer = await ask(OTHER, frame)
        if kind == "reset":
            self._quic.reset_stream(stream, DOQ_INTERNAL_ERROR)
        elif kind == "half":
            self._quic.send_stream_data(stream, answer[: len(answer) // 2], end_stream=True)
        elif kind == "twice":
            self._quic.send_stream_data(stream, answer * 2, end_stream=True)
        elif kind == "close":
            self._quic.close(error_code=DOQ_INTERNAL_ERROR)
        elif kind != "mute":
            self._quic.send_stream_data(stream, answer, end_stream=True)
        self.transmit()


async def main(port, certificate, key):
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["doq"], idle_timeout=30)
    configuration.load_cert_chain(certificate, key)
    tickets = {}
    await serve(
        "127.0.0.1",
        int(port),
        configuration=configuration,
        create_protocol=Protocol,
        session_ticket_fetcher=lambda label: tickets.pop(label, None),
        session_ticket_handler=lambda ticket: tickets.__setitem__(ticket.ticket, ticket),
        retry="retry" in sys.argv[6:],
    )
    say("ready")
    await asyncio.Event().wait()


OTHER = (sys.argv[4], int(sys.argv[5]))
asyncio.run(main(*sys.argv[1:4]))
