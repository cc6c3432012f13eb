"""Both ends of a tunnel without sockets: listeners and receivers that record what they are told and object to what
they must never be told, and pipes between them that can be cut anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from nodeagent.http2 import frames
from nodeagent.http2.connection import Http2Connection
from nodeagent.http2.frames import Chunk
from nodeagent.http2.headers import Headers, fields_of, headers_of
from nodeagent.http2.hpack.field import Field
from nodeagent.http2.limits import TUNNEL_LIMITS, ConnectionLimits
from nodeagent.http2.stream import Stream
from nodeagent.http2.table import Role
from nodeagent.http2.windows import WindowBudget

CONNECT: Headers = [(":method", "CONNECT"), (":authority", "10.0.0.1:80")]
OK: Headers = [(":status", "200")]
SETTLED = frames.settings({})
"""What a raw peer says first (after the preface, if it is the client)."""

Cutter = Callable[[bytes], Iterable[bytes]]


def whole(data: bytes) -> Iterable[bytes]:
    """Deliver as it was written."""
    return (data,)


def octets(data: bytes) -> Iterable[bytes]:
    """Deliver one octet at a time."""
    return (data[at : at + 1] for at in range(len(data)))


class Receiver:
    """Records one stream's news. With ``reads`` it consumes at once, else ``read`` does."""

    def __init__(self, stream: Stream, *, reads: bool = True) -> None:
        self.stream = stream
        self.reads = reads
        self.headers: Headers | None = None
        self.interims: list[Headers] = []
        self.trailers_seen: Headers | None = None
        self.received = bytearray()
        self.unread = 0
        self.peak = 0
        self.half_closed = False
        self.reset_with: int | None = None
        self.writable_calls = 0
        stream.receiver = self

    def _alive(self) -> None:
        assert self.reset_with is None, "told something after reset, which is the last call"

    def interim(self, fields: list[Field]) -> None:
        self._alive()
        assert self.headers is None, "an interim answer after the answer"
        self.interims.append(headers_of(fields))

    def trailers(self, fields: list[Field]) -> None:
        self._alive()
        assert self.trailers_seen is None and not self.half_closed
        self.trailers_seen = headers_of(fields)

    def answered(self, fields: list[Field]) -> None:
        self._alive()
        assert self.headers is None, "answered twice"
        self.headers = headers_of(fields)

    def data(self, piece: Chunk) -> None:
        self._alive()
        assert not self.stream.closed, "data after the stream was closed"
        assert not self.half_closed, "data after the end"
        assert len(piece) > 0
        self.received += piece
        self.unread += len(piece)
        self.peak = max(self.peak, self.unread)
        assert self.unread <= self.stream.receive_window.size, "more unread than the window"
        if self.reads:
            self.read()

    def read(self, octets_: int | None = None, *, keeps_up: bool = True) -> None:
        """Take what arrived, or so much of it."""
        taken = self.unread if octets_ is None else min(octets_, self.unread)
        self.unread -= taken
        if taken:
            self.stream.consumed(taken, keeps_up=keeps_up)

    def ended_by_peer(self) -> None:
        self._alive()
        assert not self.half_closed, "ended twice"
        self.half_closed = True

    def reset(self, code: int) -> None:
        self._alive()
        assert self.stream.closed
        self.reset_with = code

    def writable(self) -> None:
        self._alive()
        assert not self.stream.closed, "writable after the stream was closed"
        self.writable_calls += 1


class End:
    """One end: a connection and all that it told its listener. A server with ``accepts`` answers 200 at once."""

    def __init__(
        self,
        role: Role,
        *,
        accepts: bool = True,
        reads: bool = True,
        budget: WindowBudget | None = None,
        limits: ConnectionLimits = TUNNEL_LIMITS,
    ) -> None:
        self.accepts = accepts
        self.reads = reads
        self.output_waits = False
        self.requests: list[tuple[Headers, bool]] = []
        self.receivers: dict[int, Receiver] = {}
        self.closed: list[int] = []
        self.is_settled = False
        self.farewells: list[tuple[int, str]] = []
        self.pongs = 0
        self.refusals: list[str] = []
        self.connection = Http2Connection(role, self, budget, limits)

    def output_ready(self) -> None:
        assert not self.output_waits, "output_ready is called once until the output is taken"
        self.output_waits = True

    def stream_opened(self, stream: Stream, fields: list[Field], *, ended: bool) -> None:
        self.requests.append((headers_of(fields), ended))
        self.receivers[stream.id] = Receiver(stream, reads=self.reads)
        if self.accepts:
            self.connection.respond(stream, fields_of(OK))

    def request_refused(self, why: str) -> None:
        self.refusals.append(why)

    def settled(self) -> None:
        assert not self.is_settled, "settled once"
        self.is_settled = True

    def draining(self, code: int, text: str) -> None:
        self.farewells.append((code, text))

    def pong(self) -> None:
        self.pongs += 1

    def stream_closed(self, stream: Stream) -> None:
        assert stream.id not in self.closed, "closed once"
        self.closed.append(stream.id)

    def open(self, headers: Headers = CONNECT, *, reads: bool | None = None) -> Receiver:
        """Client: a new stream with its receiver."""
        stream = self.connection.open_stream(fields_of(headers))
        receiver = Receiver(stream, reads=self.reads if reads is None else reads)
        self.receivers[stream.id] = receiver
        return receiver

    def take(self) -> bytes:
        """What is to be written now."""
        self.output_waits = False
        return self.connection.take_output()

    def hear(self, *data: bytes) -> None:
        """The peer's octets."""
        for piece in data:
            self.connection.receive(piece)
            while self.connection.held:
                self.connection.go_on()


class Pair:
    """A client and a server of ours, joined."""

    def __init__(self, *, accepts: bool = True, reads: bool = True) -> None:
        self.client = End(Role.CLIENT, reads=reads)
        self.server = End(Role.SERVER, accepts=accepts, reads=reads)

    def flow(self, cut: Cutter = whole) -> None:
        """Carry everything until both are silent."""
        while self.client.output_waits or self.server.output_waits:
            for source, target in ((self.client, self.server), (self.server, self.client)):
                for piece in cut(source.take()):
                    target.hear(piece)

    def opened(self, *, reads: bool = True) -> tuple[Receiver, Receiver]:
        """A stream open at both ends: the client's receiver, the server's receiver."""
        near = self.client.open(reads=reads)
        self.flow()
        far = self.server.receivers[near.stream.id]
        far.reads = reads
        return near, far


def raw_server(**options: bool) -> End:
    """A server that has greeted and heard a raw client's preface and settings."""
    end = End(Role.SERVER, **options)
    end.hear(frames.PREFACE, SETTLED)
    end.take()
    return end


def raw_client(**options: bool) -> End:
    """A client that has greeted and heard a raw server's settings."""
    end = End(Role.CLIENT, **options)
    end.hear(SETTLED)
    end.take()
    return end


def parse(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Whole frames as (kind, flags, stream id, payload)."""
    found = []
    while data:
        length, kind, flags = int.from_bytes(data[:3]), data[3], data[4]
        found.append((kind, flags, int.from_bytes(data[5:9]), data[9 : 9 + length]))
        data = data[9 + length :]
    return found


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Any frame, however wrong."""
    return frames.header(len(payload), kind, flags, stream_id) + payload


def data_frame(stream_id: int, payload: bytes, *, end: bool = False, padding: int | None = None) -> bytes:
    """A DATA frame."""
    flags = frames.END_STREAM if end else 0
    if padding is not None:
        flags |= frames.PADDED
        payload = bytes([padding]) + payload + bytes(padding)
    return frame(frames.DATA, flags, stream_id, payload)


def raw_block(*pairs: tuple[str, str]) -> bytes:
    """A header block of literals that touch no table."""
    block = b""
    for name, value in pairs:
        block += b"\x00" + _length(len(name)) + name.encode() + _length(len(value)) + value.encode()
    return block


def _length(value: int) -> bytes:
    if value < 127:
        return bytes([value])
    rest, out = value - 127, b"\x7f"
    while rest >= 128:
        out += bytes([rest % 128 + 128])
        rest //= 128
    return out + bytes([rest])


REQUEST_BLOCK = raw_block(*CONNECT)
OK_BLOCK = raw_block(*OK)
