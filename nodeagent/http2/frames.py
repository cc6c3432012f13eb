"""HTTP/2 frames as octets: building them, and cutting them out of a stream that is cut anywhere.

Source: RFC 9113, sections 4 and 6. DATA is handed on in whatever pieces arrive, so that a frame of a megabyte is
neither buffered nor waited for; every other frame is collected whole, under a bound.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Final

from nodeagent.http2.errors import ErrorCode, PeerError

Chunk = bytes | bytearray | memoryview

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES: Final = 9
DEFAULT_MAX_FRAME: Final = 16_384
LARGEST_FRAME: Final = 16_777_215
LARGEST_WINDOW: Final = 2**31 - 1
MAX_CONTROL_FRAME: Final = 16_384
"""Longest frame other than DATA that is accepted, unless header blocks may be longer. Settings, pings and header blocks
of a CONNECT are far shorter."""
SMALL_PIECE: Final = 4096
"""Shorter pieces of DATA are copied, so that a receiver that keeps one does not keep the whole read alive with it."""

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9
URGENT: Final = 0xF5
"""Ours, of the types for experiments; no payload: the next octet of DATA on its stream is urgent data of TCP. Sent only
to a peer that announced TAKES_URGENT; any other would ignore it (RFC 9113, section 5.5).
"""

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY_FLAG: Final = 0x20

HEADER_TABLE_SIZE: Final = 0x1
ENABLE_PUSH: Final = 0x2
MAX_CONCURRENT_STREAMS: Final = 0x3
INITIAL_WINDOW_SIZE: Final = 0x4
MAX_FRAME_SIZE: Final = 0x5
MAX_HEADER_LIST_SIZE: Final = 0x6
ENABLE_CONNECT_PROTOCOL: Final = 0x8
TAKES_URGENT: Final = 0xFE4D
"""Ours: 1 if the sender of this setting takes URGENT frames. Others ignore it (RFC 9113, section 6.5.2)."""

_HEADER = Struct(">HBBBI")
_U32 = Struct(">I")
_SETTING = Struct(">HI")
_TWO_U32 = Struct(">II")
_STREAM_MASK: Final = 0x7FFF_FFFF


def header(length: int, kind: int, flags: int, stream_id: int) -> bytes:
    """The nine octets before a payload of ``length``."""
    return _HEADER.pack(length >> 8, length & 0xFF, kind, flags, stream_id)


def settings(values: dict[int, int]) -> bytes:
    """A SETTINGS frame."""
    body = b"".join([_SETTING.pack(key, value) for key, value in values.items()])
    return header(len(body), SETTINGS, 0, 0) + body


SETTINGS_ACK: Final = header(0, SETTINGS, ACK, 0)


def ping(payload: bytes, *, ack: bool = False) -> bytes:
    """A PING frame; the payload has eight octets."""
    return header(8, PING, ACK if ack else 0, 0) + payload


def goaway(last_stream_id: int, code: int, debug: bytes = b"") -> bytes:
    """A GOAWAY frame."""
    return header(8 + len(debug), GOAWAY, 0, 0) + _TWO_U32.pack(last_stream_id, code) + debug


def rst_stream(stream_id: int, code: int) -> bytes:
    """A RST_STREAM frame."""
    return header(4, RST_STREAM, 0, stream_id) + _U32.pack(code)


def urgent(stream_id: int) -> bytes:
    """An URGENT frame."""
    return header(0, URGENT, 0, stream_id)


def window_update(stream_id: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame; stream 0 is the connection."""
    return header(4, WINDOW_UPDATE, 0, stream_id) + _U32.pack(increment)


def headers(stream_id: int, block: bytes, *, end_stream: bool = False, max_frame: int = DEFAULT_MAX_FRAME) -> bytes:
    """A whole header block: HEADERS, and CONTINUATION frames for what is over ``max_frame``."""
    flags = END_STREAM if end_stream else 0
    size = len(block)
    if size <= max_frame:
        return header(size, HEADERS, END_HEADERS | flags, stream_id) + block
    parts = [header(max_frame, HEADERS, flags, stream_id), block[:max_frame]]
    for at in range(max_frame, size, max_frame):
        piece = block[at : at + max_frame]
        last = END_HEADERS if at + max_frame >= size else 0
        parts += (header(len(piece), CONTINUATION, last, stream_id), piece)
    return b"".join(parts)


def read_u32(payload: Chunk, at: int = 0) -> int:
    """Four octets as a number, the reserved top bit masked off."""
    value: int = _U32.unpack_from(payload, at)[0]
    return value & _STREAM_MASK


def read_code(payload: Chunk, at: int = 0) -> int:
    """Four octets as an error code."""
    code: int = _U32.unpack_from(payload, at)[0]
    return code


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """The pairs of a SETTINGS payload, in order."""
    if len(payload) % _SETTING.size:
        raise PeerError(ErrorCode.FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} octets is not a multiple of 6")
    return list(_SETTING.iter_unpack(payload))


FrameHandler = Callable[[int, int, int, bytes], None]
DataHandler = Callable[[int, int, Chunk, bool], None]


class FrameReader:
    """Cuts frames out of bytes.

    ``on_frame(kind, flags, stream_id, payload)`` gets every frame but DATA. ``on_data(stream_id, counted, piece,
    last)`` gets DATA in pieces: ``counted`` is what the piece costs of the flow-control windows (the size of the
    piece, or that of the padding with an empty piece), ``last`` is set on the final piece of a frame with END_STREAM.
    """

    def __init__(
        self, on_frame: FrameHandler, on_data: DataHandler, max_frame: int, max_control: int = MAX_CONTROL_FRAME
    ) -> None:
        self._on_frame = on_frame
        self._on_data = on_data
        self._max_frame = max_frame
        self._max_control = max_control
        self._rest = b""
        self._data_left = 0  # octets of the current DATA frame's content that have not arrived
        self._padding_left = 0
        self._data_stream = 0
        self._data_ends = False
        self.held = False
        """Whether what is left waits for ``release``."""

    def hold(self) -> None:
        """For a handler: read no further frame until ``release``. What has been fed is kept."""
        self.held = True

    def release(self) -> None:
        """Go on with what has been kept."""
        self.held = False
        self.feed(b"")

    def feed(self, data: Chunk) -> None:
        """Take bytes as they come. Raises PeerError on what cannot be a frame here.

        Of a ``memoryview`` nothing is kept, and large pieces of DATA are views of it.
        """
        if self._rest:
            data = self._rest + data
            self._rest = b""
        position, size = 0, len(data)
        while not self.held:
            if self._data_left or self._padding_left:
                position = self._continue_data(data, position, size)
                if position == size:
                    return
            if size - position < HEADER_BYTES:
                break
            high, low, kind, flags, stream_id = _HEADER.unpack_from(data, position)
            length = high << 8 | low
            stream_id &= _STREAM_MASK
            if kind == DATA:
                after = self._start_data(data, position + HEADER_BYTES, size, length, flags, stream_id)
                if after is None:
                    break
                position = after
                continue
            if length > self._max_control:
                raise PeerError(ErrorCode.FRAME_SIZE_ERROR, f"frame type {kind} of {length} octets is over the bound")
            end = position + HEADER_BYTES + length
            if end > size:
                break
            self._on_frame(kind, flags, stream_id, bytes(data[position + HEADER_BYTES : end]))
            position = end
        if position < size:
            self._rest = bytes(data[position:])

    def _start_data(self, data: Chunk, at: int, size: int, length: int, flags: int, stream_id: int) -> int | None:
        """Begin a DATA frame; the new position, or None if its pad length has not arrived yet."""
        if length > self._max_frame:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, f"DATA of {length} octets is over {self._max_frame}")
        if not flags & PADDED:
            end = at + length
            if end <= size:  # the usual case: the whole frame is here
                piece: Chunk = bytes(data[at:end]) if length < SMALL_PIECE else memoryview(data)[at:end]
                self._on_data(stream_id, length, piece, bool(flags & END_STREAM))
                return end
            padding = counted = 0
        else:
            if length == 0:
                raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "padded DATA without a pad length")
            if at >= size:
                return None
            padding, counted = data[at], 1 + data[at]
            if padding >= length:
                raise PeerError(ErrorCode.PROTOCOL_ERROR, f"DATA of {length} octets with {padding} octets of padding")
            at += 1
            length -= counted
        self._data_left, self._padding_left = length, padding
        self._data_stream, self._data_ends = stream_id, bool(flags & END_STREAM)
        if counted or not length:
            # padding is paid for at once; a frame without content has its only piece here
            self._on_data(stream_id, counted, b"", self._data_ends and not length)
        return at

    def _continue_data(self, data: Chunk, position: int, size: int) -> int:
        if self._data_left:
            take = min(self._data_left, size - position)
            if not take:
                return position
            self._data_left -= take
            last = self._data_ends and not self._data_left
            end = position + take
            piece: Chunk = bytes(data[position:end]) if take < SMALL_PIECE else memoryview(data)[position:end]
            position = end
            self._on_data(self._data_stream, take, piece, last)
        skip = min(self._padding_left, size - position)
        self._padding_left -= skip
        return position + skip
