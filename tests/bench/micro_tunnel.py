"""What the tunnel protocol costs alone, in microseconds a message: ``python -m tests.bench.micro_tunnel``.

No sockets, no TLS: our client against our server in memory, every message carried to the other end before the next.
"""

from __future__ import annotations

from time import perf_counter

from nodeagent.http2.connection import Http2Connection
from nodeagent.http2.frames import Chunk
from nodeagent.http2.headers import fields_of
from nodeagent.http2.hpack.field import Field
from nodeagent.http2.stream import Stream
from nodeagent.http2.table import Role

SIZES = (1, 64, 1024, 16 * 1024, 64 * 1024)
MESSAGES = 20_000
ROUNDS = 5
STREAMS = 2_000
CREDIT = 32 * 1024
REQUEST = [(":method", "CONNECT"), (":authority", "10.0.0.1:80"), ("forwarded", 'for="10.0.0.2:4711";host=web.shop')]


class _Sink:
    """A listener and a receiver that do next to nothing."""

    def __init__(self, role: Role) -> None:
        self.stream: Stream | None = None
        self.credit = 0
        self.connection = Http2Connection(role, self)

    def output_ready(self) -> None: ...

    def stream_opened(self, stream: Stream, fields: list[Field], *, ended: bool) -> None:
        self.stream = stream
        stream.receiver = self
        self.connection.respond(stream, fields_of([(":status", "200")]))

    def settled(self) -> None: ...

    def draining(self, code: int, text: str) -> None: ...

    def pong(self) -> None: ...

    def stream_closed(self, stream: Stream) -> None: ...

    def request_refused(self, why: str) -> None: ...

    def interim(self, fields: list[Field]) -> None: ...

    def trailers(self, fields: list[Field]) -> None: ...

    def answered(self, fields: list[Field]) -> None: ...

    def data(self, piece: Chunk) -> None:
        self.credit += len(piece)
        if self.credit >= CREDIT and self.stream is not None:
            self.stream.consumed(self.credit)
            self.credit = 0

    def ended_by_peer(self) -> None: ...

    def reset(self, code: int) -> None: ...

    def writable(self) -> None: ...


def _joined() -> tuple[_Sink, _Sink]:
    client, server = _Sink(Role.CLIENT), _Sink(Role.SERVER)
    _carry(client, server)
    return client, server


def _carry(client: _Sink, server: _Sink) -> None:
    while (out := client.connection.take_output()) or server.connection.output._parts:
        if out:
            server.connection.receive(out)
        if back := server.connection.take_output():
            client.connection.receive(back)


def messages(size: int) -> float:
    """Seconds a message, sent and received, best of the rounds."""
    client, server = _joined()
    stream = client.connection.open_stream(fields_of(REQUEST))
    stream.receiver = client
    _carry(client, server)
    payload, best = bytes(size), float("inf")
    take, receive = client.connection.take_output, server.connection.receive
    for _ in range(ROUNDS):
        start = perf_counter()
        for _ in range(MESSAGES):
            stream.send(payload)
            receive(take())
            if server.connection.output._parts:
                client.connection.receive(server.connection.take_output())
        best = min(best, perf_counter() - start)
    return best / MESSAGES


def streams() -> float:
    """Seconds for a stream from its request to both ends."""
    client, server = _joined()
    best = float("inf")
    for _ in range(ROUNDS):
        start = perf_counter()
        for _ in range(STREAMS):
            stream = client.connection.open_stream(fields_of(REQUEST))
            stream.receiver = client
            _carry(client, server)
            assert server.stream is not None
            stream.end()
            server.stream.end()
            _carry(client, server)
        best = min(best, perf_counter() - start)
    return best / STREAMS


def main() -> None:
    """Print the figures."""
    for size in SIZES:
        seconds = messages(size)
        print(f"{size:>6} octets  {seconds * 1e6:7.2f} us a message  {size / seconds / 1e9:6.2f} GB/s")
    print(f"open, answer, end  {streams() * 1e6:7.1f} us a stream")


if __name__ == "__main__":
    main()
