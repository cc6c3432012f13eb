"""Frames as octets: what is built, and what is cut out of octets that arrive in any pieces."""

from __future__ import annotations

import pytest

from nodeagent.http2 import frames
from nodeagent.http2.errors import ErrorCode, PeerError
from nodeagent.http2.frames import FrameReader
from tests.support.tunnel import data_frame, frame, octets

MAX = 65_536


class Reader:
    """A FrameReader and what it told."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, int, int, bytes]] = []
        self.content: dict[int, bytearray] = {}
        self.pieces: list[object] = []
        self.counted = 0
        self.ended: list[int] = []
        self.reader = FrameReader(self._frame, self._data, MAX)

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        self.frames.append((kind, flags, stream_id, payload))

    def _data(self, stream_id: int, counted: int, piece: frames.Chunk, last: bool) -> None:
        assert counted == len(piece) or not piece
        assert stream_id not in self.ended
        self.content.setdefault(stream_id, bytearray()).extend(piece)
        self.pieces.append(piece)
        self.counted += counted
        if last:
            self.ended.append(stream_id)

    def feed(self, *pieces: bytes) -> Reader:
        for piece in pieces:
            self.reader.feed(piece)
        return self


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        (frames.settings({4: 65_536}), "000006 04 00 00000000 0004 00010000"),
        (frames.SETTINGS_ACK, "000000 04 01 00000000"),
        (frames.ping(b"12345678"), "000008 06 00 00000000 3132333435363738"),
        (frames.ping(b"12345678", ack=True), "000008 06 01 00000000 3132333435363738"),
        (frames.goaway(7, ErrorCode.ENHANCE_YOUR_CALM, b"x"), "000009 07 00 00000000 00000007 0000000b 78"),
        (frames.rst_stream(3, ErrorCode.CANCEL), "000004 03 00 00000003 00000008"),
        (frames.window_update(0, 1), "000004 08 00 00000000 00000001"),
        (frames.headers(1, b"ab"), "000002 01 04 00000001 6162"),
        (frames.headers(1, b"ab", end_stream=True), "000002 01 05 00000001 6162"),
        (frames.header(0x0A0B0C, frames.DATA, 0, 5), "0a0b0c 00 00 00000005"),
    ],
)
def test_frames_are_the_octets_of_rfc_9113(built: bytes, expected: str) -> None:
    assert built == bytes.fromhex(expected)


def test_the_reserved_bit_is_masked_and_codes_are_not() -> None:
    assert frames.read_u32(b"\xff\xff\xff\xff") == 2**31 - 1
    assert frames.read_code(b"\xff\xff\xff\xff") == 2**32 - 1
    seen = Reader().feed(bytes.fromhex("000000 04 01 80000000"))
    assert seen.frames == [(frames.SETTINGS, frames.ACK, 0, b"")]


def test_settings_come_in_order_and_whole() -> None:
    assert frames.read_settings(bytes.fromhex("0004 00000001 0004 00000002")) == [(4, 1), (4, 2)]
    with pytest.raises(PeerError) as caught:
        frames.read_settings(b"12345")
    assert caught.value.code is ErrorCode.FRAME_SIZE_ERROR


MIXED = (
    frames.ping(b"12345678")
    + data_frame(1, b"a" * 5000)
    + data_frame(3, b"padded", padding=7)
    + data_frame(3, b"", padding=0)
    + frames.window_update(1, 9)
    + data_frame(3, b"rest", padding=255, end=True)
    + data_frame(1, b"", end=True)
    + frames.SETTINGS_ACK
)


@pytest.mark.parametrize("step", [1, 2, 3, 7, 8, 9, 10, 11, 4096, len(MIXED)])
def test_any_cut_gives_the_same_news(step: int) -> None:
    seen = Reader().feed(*(MIXED[at : at + step] for at in range(0, len(MIXED), step)))
    assert [kind for kind, *_ in seen.frames] == [frames.PING, frames.WINDOW_UPDATE, frames.SETTINGS]
    assert seen.content == {1: b"a" * 5000, 3: b"paddedrest"}
    assert seen.ended == [3, 1]
    assert seen.counted == 5000 + (1 + 6 + 7) + 1 + (1 + 4 + 255)  # padding and its length count (section 6.9.1)


def test_data_is_handed_on_before_its_frame_is_complete() -> None:
    seen = Reader().feed(frames.header(MAX, frames.DATA, 0, 1) + b"first")
    assert seen.content == {1: b"first"}
    assert seen.ended == []


def test_a_whole_large_frame_is_not_copied_but_small_pieces_are() -> None:
    """A receiver that keeps a small piece must not keep alive the read it came in."""
    large = Reader().feed(data_frame(1, bytes(MAX)))
    assert isinstance(large.pieces[0], memoryview)
    begun = Reader().feed(data_frame(1, bytes(MAX)) + frames.header(50, frames.DATA, 0, 3) + b"x", b"y" + bytes(48))
    assert [type(piece) for piece in begun.pieces] == [memoryview, bytes, bytes]


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (frames.header(MAX + 1, frames.DATA, 0, 1), ErrorCode.FRAME_SIZE_ERROR),
        (frames.header(frames.MAX_CONTROL_FRAME + 1, frames.HEADERS, 0, 1), ErrorCode.FRAME_SIZE_ERROR),
        (frames.header(2**24 - 1, 0xFA, 0, 1), ErrorCode.FRAME_SIZE_ERROR),
        (frame(frames.DATA, frames.PADDED, 1), ErrorCode.FRAME_SIZE_ERROR),
        (frame(frames.DATA, frames.PADDED, 1, b"\x03abc"[:3]), ErrorCode.PROTOCOL_ERROR),
        (frame(frames.DATA, frames.PADDED, 1, b"\x01"), ErrorCode.PROTOCOL_ERROR),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_what_cannot_be_a_frame_here_is_refused_without_being_waited_for(
    wrong: bytes, code: ErrorCode, whole: bool
) -> None:
    with pytest.raises(PeerError) as caught:
        Reader().feed(*([wrong] if whole else octets(wrong)))
    assert caught.value.code is code
