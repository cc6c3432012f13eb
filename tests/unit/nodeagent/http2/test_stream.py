"""One stream: sending against windows, half-closing, resetting, and what waits."""

from __future__ import annotations

import pytest

from nodeagent.http2 import frames
from nodeagent.http2.errors import ErrorCode
from nodeagent.http2.windows import FIRST_STREAM_WINDOW
from tests.support.tunnel import OK, OK_BLOCK, Pair, data_frame, octets, parse, raw_client, whole


@pytest.mark.parametrize("cut", [whole, octets], ids=["whole", "octets"])
def test_a_stream_carries_bytes_both_ways_and_ends_in_order(cut) -> None:  # type: ignore[no-untyped-def]
    pair = Pair()
    near = pair.client.open()
    assert near.stream.send(b"early")  # bytes need not wait for the answer
    pair.flow(cut)
    far = pair.server.receivers[1]
    assert near.headers == OK
    assert far.received == b"early"
    far.stream.send(b"answer")
    near.stream.end()
    pair.flow(cut)
    assert far.half_closed and not near.half_closed
    assert near.received == b"answer"
    far.stream.send(b" and more after the other side ended")
    far.stream.end()
    pair.flow(cut)
    assert near.received == b"answer and more after the other side ended"
    assert near.half_closed
    assert pair.client.closed == pair.server.closed == [1]
    assert pair.client.connection.streams == pair.server.connection.streams == {}


def test_bytes_beyond_the_window_wait_and_go_on_as_the_reader_reads() -> None:
    pair = Pair()
    near, far = pair.opened(reads=False)
    sent = bytes(range(256)) * 2048  # twice the first window
    assert not near.stream.send(sent)
    pair.flow()
    assert len(far.received) == FIRST_STREAM_WINDOW
    assert near.stream.queued == len(sent) - FIRST_STREAM_WINDOW
    assert near.writable_calls == 0
    while far.unread:
        far.read(keeps_up=False)
        pair.flow()
    assert far.received == sent
    assert near.writable_calls == 1
    assert near.stream.queued == 0


def test_the_end_waits_behind_the_bytes() -> None:
    pair = Pair()
    near, far = pair.opened(reads=False)
    near.stream.send(bytes(FIRST_STREAM_WINDOW + 1))
    near.stream.end()
    near.stream.end()
    pair.flow()
    assert not far.half_closed and not near.stream.local_ended
    far.read(keeps_up=False)
    pair.flow()
    assert far.half_closed
    assert len(far.received) == FIRST_STREAM_WINDOW + 1
    assert near.writable_calls == 0, "there is no source to go on"


def test_the_end_travels_on_the_last_bytes_if_they_are_still_here() -> None:
    pair = Pair()
    (one, at_one), (two, at_two) = pair.opened(), pair.opened()
    one.stream.send(b"first")
    one.stream.send(b"last")
    one.stream.end()
    two.stream.send(b"other")
    one_more = pair.client.open()
    two.stream.end()  # the frame before it is no longer of its own
    said = pair.client.take()
    ends = [(kind, flags, stream_id, len(payload)) for kind, flags, stream_id, payload in parse(said)]
    assert ends == [
        (frames.DATA, 0, 1, 5),
        (frames.DATA, frames.END_STREAM, 1, 4),
        (frames.DATA, 0, 3, 5),
        (frames.HEADERS, frames.END_HEADERS, one_more.stream.id, len(parse(said)[3][3])),
        (frames.DATA, frames.END_STREAM, 3, 0),
    ]
    pair.server.hear(said)
    assert (at_one.received, at_one.half_closed) == (b"firstlast", True)
    assert (at_two.received, at_two.half_closed) == (b"other", True)
    one_more.stream.send(b"written already")
    pair.server.hear(pair.client.take())
    one_more.stream.end()
    assert parse(pair.client.take()) == [(frames.DATA, frames.END_STREAM, one_more.stream.id, b"")]


def test_bytes_after_the_end_are_dropped_even_while_the_end_waits() -> None:
    pair = Pair()
    near, far = pair.opened(reads=False)
    near.stream.send(bytes(FIRST_STREAM_WINDOW + 1))
    near.stream.end()
    assert near.stream.send(b"too late")
    pair.flow()
    far.read(keeps_up=False)
    pair.flow()
    assert len(far.received) == FIRST_STREAM_WINDOW + 1
    assert far.half_closed
    assert near.stream.send(b"too late")
    pair.flow()
    assert len(far.received) == FIRST_STREAM_WINDOW + 1


def test_a_reset_drops_what_waits_and_tells_only_the_other_end() -> None:
    pair = Pair()
    near, far = pair.opened(reads=False)
    near.stream.send(bytes(FIRST_STREAM_WINDOW * 2))
    near.stream.reset(ErrorCode.CONNECT_ERROR)
    near.stream.reset()
    near.stream.end()
    assert near.stream.send(b"gone")
    pair.flow()
    assert far.reset_with == ErrorCode.CONNECT_ERROR
    assert near.reset_with is None, "who resets need not be told"
    assert not far.half_closed, "a stream that was cut never looks complete"
    assert pair.client.closed == pair.server.closed == [1]
    far.read()  # nobody is granted anything on a closed stream
    assert not pair.server.output_waits


def test_resets_that_cross_are_no_mistake() -> None:
    pair = Pair()
    near, far = pair.opened()
    near.stream.reset()
    far.stream.send(b"in flight")
    far.stream.reset()
    pair.flow()
    assert near.received == b""
    assert near.reset_with is None and far.reset_with is None
    again, _ = pair.opened()
    assert again.headers == OK


def test_a_receiver_may_reset_from_within_its_call() -> None:
    client = raw_client()
    near = client.open()
    client.take()
    near.data = lambda piece: near.stream.reset()  # type: ignore[method-assign]
    client.hear(frames.headers(1, OK_BLOCK), data_frame(1, b"x", end=True))
    assert not near.half_closed
    assert client.closed == [1]
    assert parse(client.take()) == [(frames.RST_STREAM, 0, 1, (8).to_bytes(4))]


def test_chunks_are_sent_as_they_are_in_frames_that_the_peer_takes() -> None:
    client = raw_client()
    near = client.open()
    client.take()
    near.stream.send(memoryview(bytearray(b"a" * 20_000)))
    near.stream.send(bytearray(b"b"))
    sent = parse(client.take())
    assert [(kind, len(payload)) for kind, _, _, payload in sent] == [
        (frames.DATA, 16_384),
        (frames.DATA, 20_000 - 16_384),
        (frames.DATA, 1),
    ]


def test_nothing_is_sent_for_nothing() -> None:
    client = raw_client()
    near = client.open()
    client.take()
    assert near.stream.send(b"")
    assert not client.output_waits


def test_a_window_shrunk_below_zero_must_be_worked_off_first() -> None:
    client = raw_client()
    near = client.open()
    near.stream.send(bytes(60_000))
    client.hear(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
    client.take()
    assert near.stream.send_window == -60_000
    assert not near.stream.send(b"waits")
    client.hear(frames.window_update(1, 60_000))
    assert near.stream.queued == 5
    client.hear(frames.window_update(1, 2))
    assert near.writable_calls == 0
    client.hear(frames.settings({frames.INITIAL_WINDOW_SIZE: 3}))
    assert near.stream.queued == 0 and near.writable_calls == 1
    assert [payload for kind, _, _, payload in parse(client.take()) if kind == frames.DATA] == [b"wa", b"its"]


def test_lent_bytes_go_out_as_far_as_the_windows_allow_and_may_change_once_taken() -> None:
    pair = Pair()
    near, far = pair.opened(reads=False)
    buffer = bytearray(b"a" * (FIRST_STREAM_WINDOW + 1000))
    assert near.stream.send_lent(memoryview(buffer)) == FIRST_STREAM_WINDOW
    pair.flow()
    buffer[:] = b"b" * len(buffer)
    assert far.received == b"a" * FIRST_STREAM_WINDOW
    assert near.stream.send_lent(memoryview(buffer)) == 0
    assert not near.stream.send(b"waits")
    far.read()
    assert near.stream.send_lent(memoryview(buffer)) == 0, "not before what waits"
    pair.flow()
    assert far.received == b"a" * FIRST_STREAM_WINDOW + b"waits"


def test_lent_bytes_that_nobody_took_can_be_kept() -> None:
    pair = Pair()
    near, far = pair.opened()
    buffer = bytearray(b"a" * 1000)
    assert near.stream.send_lent(memoryview(buffer)) == 1000
    near.stream.output.keep()
    buffer[:] = bytes(1000)
    pair.flow()
    assert far.received == b"a" * 1000


def test_lent_bytes_after_the_end_are_dropped() -> None:
    pair = Pair()
    near, far = pair.opened()
    near.stream.end()
    assert near.stream.send_lent(memoryview(b"late")) == 4
    pair.flow()
    assert far.received == b"" and far.half_closed
