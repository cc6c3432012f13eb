"""One connection: greeting, opening and answering streams, sharing the room of one wire, going away."""

from __future__ import annotations

import pytest

from nodeagent.http2 import frames
from nodeagent.http2.errors import ErrorCode, LocalError, PeerError
from nodeagent.http2.headers import fields_of
from nodeagent.http2.limits import (
    CLIENT_STREAMS,
    MAX_CONTROL_WAITING,
    MAX_FRAME_SENT,
    MAX_OUTPUT,
    SERVER_STREAMS,
)
from nodeagent.http2.table import Role
from nodeagent.http2.windows import CONNECTION_WINDOW, FIRST_STREAM_WINDOW, WindowBudget
from tests.support.tunnel import (
    CONNECT,
    OK,
    OK_BLOCK,
    REQUEST_BLOCK,
    SETTLED,
    End,
    Pair,
    data_frame,
    octets,
    parse,
    raw_client,
    raw_server,
)

BAD = [(":status", "400")]


def test_each_end_greets_with_its_settings_and_a_connection_window() -> None:
    client, server = End(Role.CLIENT), End(Role.SERVER)
    said = client.take()
    assert said.startswith(frames.PREFACE)
    for hello in (said.removeprefix(frames.PREFACE), server.take()):
        settings, update = parse(hello)
        assert settings[0] == frames.SETTINGS and (frames.INITIAL_WINDOW_SIZE, FIRST_STREAM_WINDOW) in (
            frames.read_settings(settings[3])
        )
        assert update == (frames.WINDOW_UPDATE, 0, 0, (CONNECTION_WINDOW - 65_535).to_bytes(4))
    assert not client.output_waits and client.take() == b""


def test_both_ends_settle() -> None:
    pair = Pair()
    assert not pair.client.is_settled
    pair.flow(octets)
    assert pair.client.is_settled and pair.server.is_settled
    assert pair.client.connection.output.max_frame == MAX_FRAME_SENT, "as much as the peer takes, within our bound"
    assert pair.client.connection.output.send_window == CONNECTION_WINDOW


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX", b"\x16\x03\x01"])
@pytest.mark.parametrize("cut", [lambda data: [data], octets])
def test_a_server_wants_the_preface(said: bytes, cut) -> None:  # type: ignore[no-untyped-def]
    server = End(Role.SERVER)
    with pytest.raises(PeerError, match="does not speak HTTP/2") as caught:
        server.hear(*cut(said))
    assert caught.value.code is ErrorCode.PROTOCOL_ERROR


def test_a_request_is_told_and_answered() -> None:
    pair = Pair(accepts=False)
    near = pair.client.open()
    pair.flow()
    assert pair.server.requests == [(CONNECT, False)]
    assert near.headers is None
    pair.server.connection.respond(pair.server.receivers[1].stream, fields_of(OK))
    pair.flow()
    assert near.headers == OK


def test_a_refusal_ends_the_stream_at_both_ends() -> None:
    pair = Pair(accepts=False)
    near = pair.client.open()
    near.stream.send(b"bytes that nobody wants")
    pair.flow()
    far = pair.server.receivers[1]
    pair.server.connection.respond(far.stream, fields_of(BAD), end=True)
    pair.server.connection.respond(far.stream, fields_of(OK))
    pair.flow()
    assert near.headers == BAD and near.half_closed
    assert pair.client.closed == pair.server.closed == [1]


def test_a_refusal_of_a_request_that_had_ended_needs_no_reset() -> None:
    pair = Pair(accepts=False)
    near = pair.client.open()
    near.stream.end()
    pair.flow()
    pair.server.connection.respond(pair.server.receivers[1].stream, fields_of(BAD), end=True)
    pair.flow()
    assert near.reset_with is None
    assert pair.client.closed == pair.server.closed == [1]


def test_an_answer_for_a_stream_that_is_gone_is_dropped() -> None:
    pair = Pair(accepts=False)
    near = pair.client.open()
    pair.flow()
    near.stream.reset()
    pair.flow()
    pair.server.connection.respond(pair.server.receivers[1].stream, fields_of(OK))
    assert not pair.server.output_waits


def test_the_client_opens_no_more_streams_than_the_server_takes() -> None:
    client = raw_client()
    opened = [client.open() for _ in range(CLIENT_STREAMS)]
    assert not client.connection.can_open
    with pytest.raises(LocalError, match="can_open"):
        client.open()
    opened[0].stream.reset()
    assert client.connection.can_open
    client.hear(frames.settings({frames.MAX_CONCURRENT_STREAMS: 2}))
    assert not client.connection.can_open
    client.hear(frames.settings({frames.MAX_CONCURRENT_STREAMS: 2**32 - 1}))
    assert client.connection.can_open


def test_only_a_client_opens_streams() -> None:
    with pytest.raises(LocalError):
        raw_server().connection.open_stream(fields_of(CONNECT))


def test_the_server_refuses_streams_beyond_its_bound_and_serves_the_others() -> None:
    server = raw_server()
    for number in range(SERVER_STREAMS + 1):
        server.hear(frames.headers(number * 2 + 1, REQUEST_BLOCK))
    last = SERVER_STREAMS * 2 + 1
    assert (frames.RST_STREAM, 0, last, (7).to_bytes(4)) in parse(server.take())
    server.hear(data_frame(last, b"was on its way"), data_frame(1, b"hello"))
    assert server.receivers[1].received == b"hello"
    server.receivers[1].stream.reset()
    server.hear(frames.headers(last + 2, REQUEST_BLOCK))
    assert last + 2 in server.receivers


# --- the wire that streams share ---


def test_a_stalled_stream_does_not_hold_up_its_neighbours() -> None:
    pair = Pair()
    stalled, far_stalled = pair.opened(reads=False)
    lively, far_lively = pair.opened()
    stalled.stream.send(bytes(FIRST_STREAM_WINDOW * 3))
    for _ in range(200):  # far more than the connection's window
        lively.stream.send(bytes(100_000))
        pair.flow()
    assert len(far_lively.received) == 200 * 100_000
    assert len(far_stalled.received) == FIRST_STREAM_WINDOW


def test_streams_take_turns_when_the_connection_window_is_short() -> None:
    client = raw_client()
    client.hear(frames.settings({frames.INITIAL_WINDOW_SIZE: 1_000_000}))
    receivers = [client.open() for _ in range(3)]
    client.take()
    for receiver in receivers:
        receiver.stream.send(bytes(100_000))
    order: list[int] = []
    for _ in range(12):
        order += [stream_id for kind, _, stream_id, _ in parse(client.take()) if kind == frames.DATA]
        client.hear(frames.window_update(0, 10_000))
    turns = order[4:]  # the first stream used up the window that was there at the start
    assert {turns.count(1), turns.count(3), turns.count(5)} <= {3, 4}


def test_when_the_output_is_full_streams_wait_and_go_on_when_it_was_taken() -> None:
    client = raw_client()
    client.hear(frames.window_update(0, 2**30), frames.settings({frames.INITIAL_WINDOW_SIZE: 2**30}))
    first, second = client.open(), client.open()
    assert not first.stream.send(bytes(MAX_OUTPUT * 2))
    assert not second.stream.send(b"behind")
    wire = b""
    while client.output_waits:
        out = client.take()
        assert len(out) < MAX_OUTPUT * 1.1
        wire += out
    assert sum(len(p) for k, _, s, p in parse(wire) if k == frames.DATA and s == 1) == MAX_OUTPUT * 2
    assert b"behind" in wire
    assert first.writable_calls == second.writable_calls == 1
    assert not client.connection.output.waiting


def test_while_the_transport_is_congested_sources_stop() -> None:
    client = raw_client()
    near = client.open()
    client.take()
    client.connection.congested(True)
    assert not near.stream.send(b"waits")
    assert client.take() == b""
    assert not near.stream.send(b" in order")
    client.connection.congested(False)
    assert near.writable_calls == 1
    assert b"".join(p for k, _, _, p in parse(client.take()) if k == frames.DATA) == b"waits in order"


def test_a_source_that_goes_on_at_once_does_not_starve_the_next() -> None:
    client = raw_client()
    greedy, modest = client.open(), client.open()

    def goes_on() -> None:
        greedy.stream.send(bytes(65_535))

    client.take()
    client.connection.congested(True)
    greedy.writable = goes_on  # type: ignore[method-assign]
    greedy.stream.send(bytes(65_000))
    modest.stream.send(b"one small thing")
    client.connection.congested(False)  # greedy uses up the connection's window, and wants more
    client.hear(frames.window_update(0, 100))
    assert modest.stream.queued == 0


def test_a_stream_waits_in_line_only_for_what_the_connection_lacks() -> None:
    """A stream without a window of its own must not be walked over at every write."""
    client = raw_client()
    stalled = client.open()
    stalled.stream.send(bytes(65_536))
    client.hear(frames.window_update(0, 100_000))
    assert stalled.stream.queued == 1
    assert not client.connection.output.waiting
    client.hear(frames.window_update(1, 1))
    assert stalled.stream.queued == 0 and stalled.writable_calls == 1


def test_a_callback_that_resets_the_neighbour_in_line() -> None:
    client = raw_client()
    first, second = client.open(), client.open()
    client.connection.congested(True)
    first.stream.send(b"a")
    second.stream.send(b"b")
    first.writable = second.stream.reset  # type: ignore[method-assign]
    client.connection.congested(False)
    assert second.writable_calls == 0
    assert client.closed == [3]


def test_the_connection_window_is_granted_again_on_receipt() -> None:
    server = raw_server(reads=False)
    server.hear(*(frames.headers(number * 2 + 1, REQUEST_BLOCK) for number in range(100)))
    server.take()
    piece = data_frame(1, bytes(FIRST_STREAM_WINDOW // 4))
    granted = 0
    for number in range(100):
        for _ in range(4):
            server.hear(piece[:8] + bytes([number * 2 + 1]) + piece[9:])
        granted += sum(
            frames.read_u32(p) for k, _, s, p in parse(server.take()) if k == frames.WINDOW_UPDATE and s == 0
        )
    assert granted >= 100 * FIRST_STREAM_WINDOW - CONNECTION_WINDOW / 2
    assert server.receivers[1].unread == FIRST_STREAM_WINDOW, "while no stream was read at all"


def test_more_than_the_window_of_a_stream_ends_the_connection() -> None:
    server = raw_server(reads=False)
    server.hear(frames.headers(1, REQUEST_BLOCK), data_frame(1, bytes(FIRST_STREAM_WINDOW)))
    with pytest.raises(PeerError) as caught:
        server.hear(data_frame(1, b"x"))
    assert caught.value.code is ErrorCode.FLOW_CONTROL_ERROR


def test_padding_is_paid_for_and_granted_again() -> None:
    server = raw_server()
    server.hear(frames.headers(1, REQUEST_BLOCK))
    for _ in range(FIRST_STREAM_WINDOW // 256 * 2):  # padding alone, twice the window
        server.hear(data_frame(1, b"x", padding=254))
    assert len(server.receivers[1].received) == FIRST_STREAM_WINDOW // 256 * 2


def test_what_streams_had_reserved_comes_back_when_they_are_gone() -> None:
    budget = WindowBudget()
    before = budget.left
    server = End(Role.SERVER, budget=budget)
    server.hear(frames.PREFACE, SETTLED)
    for number in (1, 3):
        server.hear(frames.headers(number, REQUEST_BLOCK))
        for _ in range(10):
            server.hear(data_frame(number, bytes(FIRST_STREAM_WINDOW // 2)))
    assert budget.left < before
    server.hear(frames.rst_stream(1, 8))
    server.connection.abandon(ErrorCode.INTERNAL_ERROR)
    assert budget.left == before


# --- the end ---


def test_draining_takes_no_new_streams_and_finishes_the_live_ones() -> None:
    pair = Pair()
    near, far = pair.opened()
    pair.server.connection.go_away(text="worker drains")
    pair.server.connection.go_away()
    pair.flow()
    assert pair.client.farewells == [(0, "worker drains")]
    assert not pair.client.connection.can_open
    near.stream.send(b"still")
    far.stream.send(b"alive")
    near.stream.end()
    far.stream.end()
    pair.flow()
    assert (far.received, near.received) == (b"still", b"alive")
    assert pair.client.closed == pair.server.closed == [1]


def test_a_request_that_crosses_the_goaway_was_refused() -> None:
    pair = Pair()
    near, _ = pair.opened()
    pair.server.connection.go_away()
    late = pair.client.open()
    pair.flow()
    assert late.reset_with == ErrorCode.REFUSED_STREAM, "it is safe to try again elsewhere"
    assert near.reset_with is None
    assert len(pair.server.requests) == 1


def test_the_reason_of_an_error_is_told_even_after_draining() -> None:
    server = raw_server()
    server.connection.go_away()
    server.connection.go_away(ErrorCode.PROTOCOL_ERROR, "why " * 100)
    drained, failed = parse(server.take())
    assert frames.read_code(drained[3], 4) == 0
    assert frames.read_code(failed[3], 4) == ErrorCode.PROTOCOL_ERROR
    assert len(failed[3]) == 8 + 256


def test_a_lost_connection_tells_every_stream_once() -> None:
    pair = Pair()
    first, _ = pair.opened()
    second, _ = pair.opened()
    pair.client.connection.abandon(ErrorCode.INTERNAL_ERROR)
    pair.client.connection.abandon(ErrorCode.INTERNAL_ERROR)
    assert first.reset_with == second.reset_with == ErrorCode.INTERNAL_ERROR
    assert not pair.client.connection.can_open
    assert pair.client.connection.streams == {}


def test_a_receiver_that_resets_its_neighbour_while_the_connection_is_lost() -> None:
    client = raw_client()
    first, second = client.open(), client.open()
    told = first.reset

    def reset(code: int) -> None:
        told(code)
        second.stream.reset()

    first.reset = reset  # type: ignore[method-assign]
    client.connection.abandon(ErrorCode.CANCEL)
    assert second.reset_with is None, "its owner reset it: it knows"
    assert sorted(client.closed) == [1, 3]


def test_pings_are_answered_and_told_once_each() -> None:
    pair = Pair()
    pair.client.connection.ping()
    pair.flow()
    assert pair.client.pongs == 1
    pair.client.hear(frames.ping(b"nodemesh", ack=True))
    assert pair.client.pongs == 1, "nobody asked"


def test_a_peer_that_does_not_read_is_given_no_more_streams() -> None:
    client = raw_client()
    client.connection.congested(True)
    for _ in range(MAX_CONTROL_WAITING):
        if not client.connection.can_open:
            break
        client.open().stream.reset()
    assert not client.connection.can_open
    client.take()
    assert client.connection.can_open


def test_answers_before_the_connection_is_settled_are_refused() -> None:
    client = End(Role.CLIENT)
    client.open()
    with pytest.raises(PeerError, match="first frame is not SETTINGS"):
        client.hear(frames.headers(1, OK_BLOCK))
