"""What a peer may say besides bytes, and each mistake and each flood it may try: the right code, and nothing unbounded.

Source: RFC 9113 (sections are named beside the cases); CVE-2023-44487, CVE-2024-27316, CVE-2025-8671.
"""

from __future__ import annotations

import hpack
import pytest

from nodeagent.http2 import frames
from nodeagent.http2.errors import ErrorCode, PeerError
from nodeagent.http2.headers import fields_of
from nodeagent.http2.limits import (
    EMPTY_RESETS_A_SECOND,
    MAX_CONTROL_WAITING,
    MAX_EARLY_RESETS,
    MAX_EMPTY_RESETS,
    MAX_FIELDS,
    MAX_HEADER_LIST,
    MAX_IDLE_FRAMES,
    MAX_REPLIES,
    MAX_SETTINGS,
    NEW_STREAMS_A_TURN,
)
from nodeagent.http2.table import Role
from tests.support.tunnel import (
    CONNECT,
    OK,
    OK_BLOCK,
    REQUEST_BLOCK,
    SETTLED,
    End,
    data_frame,
    frame,
    parse,
    raw_block,
    raw_client,
    raw_server,
)

E = ErrorCode
TRAILERS = raw_block(("grpc-status", "0"))
REQUEST = frames.headers(1, REQUEST_BLOCK)
ANSWER = frames.headers(1, OK_BLOCK)


def error_of(end: End, *said: bytes) -> ErrorCode:
    """The code of the connection error that this provokes."""
    with pytest.raises(PeerError) as caught:
        end.hear(*said)
    return caught.value.code


def resets(end: End) -> dict[int, int]:
    """The streams that the end resets, with the codes."""
    return {s: int.from_bytes(p) for k, _, s, p in parse(end.take()) if k == frames.RST_STREAM}


SETTINGS_OF = frames.settings
HUGE = 2**31 - 1

CONNECTION_ERRORS = {
    "SETTINGS on a stream (6.5)": (frame(frames.SETTINGS, 0, 1), E.PROTOCOL_ERROR),
    "SETTINGS of 5 octets (6.5)": (frame(frames.SETTINGS, 0, 0, b"12345"), E.FRAME_SIZE_ERROR),
    "SETTINGS ACK with payload (6.5)": (frame(frames.SETTINGS, frames.ACK, 0, b"123456"), E.FRAME_SIZE_ERROR),
    "ENABLE_PUSH of 2 (6.5.2)": (SETTINGS_OF({frames.ENABLE_PUSH: 2}), E.PROTOCOL_ERROR),
    "INITIAL_WINDOW_SIZE over 2^31-1 (6.5.2)": (SETTINGS_OF({frames.INITIAL_WINDOW_SIZE: 2**31}), E.FLOW_CONTROL_ERROR),
    "MAX_FRAME_SIZE too small (6.5.2)": (SETTINGS_OF({frames.MAX_FRAME_SIZE: 16_383}), E.PROTOCOL_ERROR),
    "MAX_FRAME_SIZE too large (6.5.2)": (SETTINGS_OF({frames.MAX_FRAME_SIZE: 2**24}), E.PROTOCOL_ERROR),
    "very many settings": (SETTINGS_OF(dict.fromkeys(range(100, 101 + MAX_SETTINGS), 0)), E.ENHANCE_YOUR_CALM),
    "PING on a stream (6.7)": (frame(frames.PING, 0, 1, bytes(8)), E.PROTOCOL_ERROR),
    "PING of 7 octets (6.7)": (frame(frames.PING, 0, 0, bytes(7)), E.FRAME_SIZE_ERROR),
    "GOAWAY on a stream (6.8)": (frame(frames.GOAWAY, 0, 1, bytes(8)), E.PROTOCOL_ERROR),
    "GOAWAY of 7 octets": (frame(frames.GOAWAY, 0, 0, bytes(7)), E.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of 3 octets (6.9)": (frame(frames.WINDOW_UPDATE, 0, 0, bytes(3)), E.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of 0 (6.9)": (frames.window_update(0, 0), E.PROTOCOL_ERROR),
    "WINDOW_UPDATE over 2^31-1 (6.9.1)": (frames.window_update(0, HUGE), E.FLOW_CONTROL_ERROR),
    "WINDOW_UPDATE on an idle stream (5.1)": (frames.window_update(99, 1), E.PROTOCOL_ERROR),
    "RST_STREAM on stream 0 (6.4)": (frames.rst_stream(0, 8), E.PROTOCOL_ERROR),
    "RST_STREAM on an idle stream (6.4)": (frames.rst_stream(99, 8), E.PROTOCOL_ERROR),
    "RST_STREAM of 3 octets (6.4)": (frame(frames.RST_STREAM, 0, 1, bytes(3)), E.FRAME_SIZE_ERROR),
    "PRIORITY on stream 0 (6.3)": (frame(frames.PRIORITY, 0, 0, bytes(5)), E.PROTOCOL_ERROR),
    "PRIORITY of 4 octets (6.3)": (frame(frames.PRIORITY, 0, 1, bytes(4)), E.FRAME_SIZE_ERROR),
    "PUSH_PROMISE (8.4)": (frame(frames.PUSH_PROMISE, frames.END_HEADERS, 1, bytes(4)), E.PROTOCOL_ERROR),
    "DATA on stream 0 (6.1)": (data_frame(0, b"x"), E.PROTOCOL_ERROR),
    "DATA on an idle stream (5.1)": (data_frame(99, b"x"), E.PROTOCOL_ERROR),
    "DATA on a stream of the other parity": (data_frame(2, b"x"), E.PROTOCOL_ERROR),
    "HEADERS on stream 0 (6.2)": (frames.headers(0, REQUEST_BLOCK), E.PROTOCOL_ERROR),
    "HEADERS on an even stream (5.1.1)": (frames.headers(2, REQUEST_BLOCK), E.PROTOCOL_ERROR),
    "HEADERS, only padding (6.2)": (frame(frames.HEADERS, 0xC, 5, b"\x05abc"), E.PROTOCOL_ERROR),
    "HEADERS, padded, empty": (frame(frames.HEADERS, 0xC, 5), E.PROTOCOL_ERROR),
    "HEADERS too short for a priority": (frame(frames.HEADERS, 0x24, 5, b"abcd"), E.FRAME_SIZE_ERROR),
    "HEADERS, garbage (4.3)": (frames.headers(5, b"\xff\xff\xff\xff\xff\xff\xff"), E.COMPRESSION_ERROR),
    "HEADERS, index 0 (RFC 7541, 6.1)": (frames.headers(5, b"\x80"), E.COMPRESSION_ERROR),
    "HEADERS, truncated literal": (frames.headers(5, b"\x00\x05ab"), E.COMPRESSION_ERROR),
    "HEADERS, bad Huffman": (frames.headers(5, b"\x00\x81\xff\x84\xff\xff\xff\xff"), E.COMPRESSION_ERROR),
    "HEADERS, endless integer": (frames.headers(5, b"\x7f" + b"\xff" * 16_000), E.COMPRESSION_ERROR),
    "HEADERS, a table over the agreed (RFC 7541, 4.2)": (frames.headers(5, b"\x3f\xe2\x1f"), E.COMPRESSION_ERROR),
    "CONTINUATION out of the blue (6.10)": (frame(frames.CONTINUATION, 4, 5, REQUEST_BLOCK), E.PROTOCOL_ERROR),
    "CONTINUATION on stream 0": (frame(frames.CONTINUATION, 4, 0, REQUEST_BLOCK), E.PROTOCOL_ERROR),
    "CONTINUATION of another stream (6.10)": (
        frame(frames.HEADERS, 0, 5) + frame(frames.CONTINUATION, 4, 7, REQUEST_BLOCK),
        E.PROTOCOL_ERROR,
    ),
    "a header block interrupted by PING (6.10)": (
        frame(frames.HEADERS, 0, 5) + frames.ping(bytes(8)),
        E.PROTOCOL_ERROR,
    ),
    "a header block interrupted by DATA (6.10)": (frame(frames.HEADERS, 0, 5) + data_frame(1, b"x"), E.PROTOCOL_ERROR),
    "a header block interrupted by HEADERS": (frame(frames.HEADERS, 0, 5) + REQUEST, E.PROTOCOL_ERROR),
    "a header block interrupted by an unknown frame": (
        frame(frames.HEADERS, 0, 5) + frame(0xFA, 0, 5),
        E.PROTOCOL_ERROR,
    ),
}


@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
@pytest.mark.parametrize(("said", "code"), CONNECTION_ERRORS.values(), ids=CONNECTION_ERRORS)
def test_connection_errors(role: Role, said: bytes, code: ErrorCode) -> None:
    if role is Role.SERVER:
        end = raw_server()
        end.hear(REQUEST)
    else:
        end = raw_client()
        end.open()
    assert error_of(end, said) is code


@pytest.mark.parametrize(
    "said", [frames.SETTINGS_ACK, frames.ping(bytes(8)), REQUEST, data_frame(1, b"x"), frame(250, 0, 0)]
)
def test_the_first_frame_is_settings(said: bytes) -> None:
    server = End(Role.SERVER)
    assert error_of(server, frames.PREFACE, said) is E.PROTOCOL_ERROR


def test_a_server_may_not_enable_push() -> None:
    assert error_of(raw_client(), frames.settings({frames.ENABLE_PUSH: 1})) is E.PROTOCOL_ERROR
    raw_server().hear(frames.settings({frames.ENABLE_PUSH: 1}))


@pytest.mark.parametrize("number", [1, 3, 5])
@pytest.mark.parametrize("ends", [True, False])
def test_stream_numbers_only_grow(number: int, ends: bool) -> None:
    """Used or skipped, a lower number is never opened again (5.1.1)."""
    server = raw_server()
    server.hear(REQUEST, frames.headers(5, REQUEST_BLOCK), frames.rst_stream(1, 8), frames.rst_stream(5, 8))
    assert error_of(server, frames.headers(number, REQUEST_BLOCK, end_stream=ends)) is E.PROTOCOL_ERROR


def test_settings_that_push_a_window_over_the_top_end_the_connection() -> None:
    client = raw_client()
    client.open()
    client.hear(frames.window_update(1, HUGE - 65_535))
    assert error_of(client, frames.settings({frames.INITIAL_WINDOW_SIZE: 65_536})) is E.FLOW_CONTROL_ERROR


# --- mistakes on one stream: its neighbours go on ---

STREAM_ERRORS = {
    "WINDOW_UPDATE of 0 (6.9)": (frames.window_update(1, 0), E.PROTOCOL_ERROR),
    "WINDOW_UPDATE over 2^31-1 (6.9.1)": (frames.window_update(1, HUGE), E.FLOW_CONTROL_ERROR),
    "DATA after END_STREAM (5.1)": (data_frame(1, b"", end=True) + data_frame(1, b"x"), E.STREAM_CLOSED),
    "trailers after END_STREAM (5.1)": (
        data_frame(1, b"", end=True) + frames.headers(1, TRAILERS, end_stream=True),
        E.STREAM_CLOSED,
    ),
    "trailers that do not end (8.1)": (frames.headers(1, TRAILERS), E.PROTOCOL_ERROR),
}


@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
@pytest.mark.parametrize(("said", "code"), STREAM_ERRORS.values(), ids=STREAM_ERRORS)
def test_stream_errors(role: Role, said: bytes, code: ErrorCode) -> None:
    if role is Role.SERVER:
        end = raw_server()
        end.hear(REQUEST, frames.headers(3, REQUEST_BLOCK))
    else:
        end = raw_client()
        end.open(), end.open()
        end.hear(ANSWER, frames.headers(3, OK_BLOCK))
    end.take()
    end.hear(said)
    assert resets(end) == {1: code}
    assert end.receivers[1].reset_with == code, "its owner is told"
    assert end.closed == [1]
    end.hear(data_frame(1, b"in flight"), data_frame(3, b"fine"))
    assert end.receivers[3].received == b"fine"


def test_bytes_before_the_answer_reach_nobody() -> None:
    client = raw_client()
    near = client.open()
    client.take()
    client.hear(data_frame(1, b"smuggled"))
    assert near.received == b"" and near.reset_with == E.PROTOCOL_ERROR
    assert resets(client) == {1: E.PROTOCOL_ERROR}


def test_a_value_that_is_no_utf_8_concerns_its_stream_only() -> None:
    server = raw_server()
    server.hear(frames.headers(1, REQUEST_BLOCK + b"\x00\x07baggage\x02\xff\xfe"))
    headers, _ = server.requests[0]
    assert headers[:2] == CONNECT and headers[2] == ("baggage", "\ufffd\ufffd")


# --- what is allowed ---


def test_unknown_frames_flags_and_settings_are_ignored() -> None:
    server = raw_server()
    server.hear(frame(0xFA, 0xFF, 77, b"grease"), frames.settings({0x0A0A: 1}), frame(frames.PRIORITY, 0, 9, bytes(5)))
    server.hear(frame(frames.HEADERS, 0x4 | 0x40, 1, REQUEST_BLOCK))
    assert len(server.requests) == 1


def test_headers_with_padding_priority_and_continuations() -> None:
    server = raw_server()
    padded = bytes([3]) + bytes(5) + REQUEST_BLOCK[:4] + bytes(3)
    server.hear(frame(frames.HEADERS, frames.PADDED | frames.PRIORITY_FLAG | frames.END_STREAM, 1, padded))
    for octet in REQUEST_BLOCK[4:]:
        server.hear(frame(frames.CONTINUATION, 0, 1, bytes([octet])))
    assert not server.requests
    server.hear(frame(frames.CONTINUATION, frames.END_HEADERS, 1))
    assert server.requests == [(CONNECT, True)]
    server.hear(frames.headers(3, REQUEST_BLOCK), data_frame(3, b"x"))
    assert server.receivers[3].received == b"x"


def test_interim_answers_are_skipped_and_trailers_end_the_stream() -> None:
    client = raw_client()
    near = client.open()
    client.hear(frames.headers(1, raw_block((":status", "103"))))
    assert near.headers is None
    client.hear(ANSWER, data_frame(1, b"x"), frames.headers(1, TRAILERS, end_stream=True))
    assert near.headers == OK and near.received == b"x" and near.half_closed


def test_an_answer_to_a_stream_that_we_reset_is_no_mistake() -> None:
    client = raw_client()
    client.open().stream.reset()
    client.hear(ANSWER, data_frame(1, b"x"), frames.window_update(1, 5), frames.rst_stream(1, 0))
    client.hear(frames.headers(1, TRAILERS, end_stream=True))
    assert client.closed == [1]


def test_goaway_refuses_what_the_peer_never_looked_at() -> None:
    client = raw_client()
    receivers = [client.open() for _ in range(3)]
    client.hear(frames.goaway(HUGE, 0), frames.goaway(3, 0, b"bye \xff"))
    assert [receiver.reset_with for receiver in receivers] == [None, None, E.REFUSED_STREAM]
    assert client.farewells == [(0, ""), (0, "bye \ufffd")]


def test_our_header_table_follows_the_peers_smallest_and_last_size() -> None:
    """RFC 7541, section 4.2: both are to be told, however often the peer changed its mind."""
    client, decoder = raw_client(), hpack.Decoder()
    for sizes in ([], [0, 0], [0], [4096], [0, 4096], [0], [100, 2**32 - 1], [50, 50, 60]):
        for size in sizes:
            client.hear(frames.settings({frames.HEADER_TABLE_SIZE: size}))
        if sizes:
            decoder.max_allowed_table_size = min(sizes[-1], 4096)
        receiver = client.open()
        (block,) = [payload for kind, _, _, payload in parse(client.take()) if kind == frames.HEADERS]
        assert [tuple(map(str, pair)) for pair in decoder.decode(block)] == CONNECT
        receiver.stream.reset()


def test_changing_the_table_size_for_ever_costs_nothing() -> None:
    client = raw_client()
    for _ in range(2_000):
        client.hear(frames.settings({frames.HEADER_TABLE_SIZE: 0}), frames.settings({frames.HEADER_TABLE_SIZE: 4096}))
        client.take()
    client.open()
    assert len(client.take()) < 100


def test_settings_are_acknowledged_before_the_bytes_that_they_allow() -> None:
    """RFC 9113, 6.5.3: at once; a peer applies its own settings when the acknowledgement comes."""
    client = raw_client()
    client.open().stream.send(bytes(65_535 + 2))
    client.hear(frames.window_update(0, 2))
    client.take()
    client.hear(frames.settings({frames.INITIAL_WINDOW_SIZE: 65_536}), frames.settings({4: 65_537, 5: 16_384}))
    assert [kind for kind, *_ in parse(client.take())] == [frames.SETTINGS, frames.DATA] * 2


# --- floods ---


@pytest.mark.parametrize(
    "one",
    [
        data_frame(1, b""),
        data_frame(1, b"", padding=0),
        data_frame(7, b""),
        frame(frames.PRIORITY, 0, 1, bytes(5)),
        frame(0xFA, 0, 0),
        frames.SETTINGS_ACK,
        frames.ping(bytes(8), ack=True),
        frames.goaway(0, 0),
        frames.rst_stream(7, 0),
        frames.headers(7, TRAILERS, end_stream=True),
    ],
    ids=[
        "empty data",
        "padding",
        "late empty data",
        "priority",
        "unknown",
        "settings ack",
        "pong",
        "goaway",
        "late reset",
        "late trailers",
    ],
)
def test_frames_that_carry_nothing_are_counted_even_from_a_peer_that_reads(one: bytes) -> None:
    server = raw_server()
    server.hear(REQUEST, frames.headers(7, REQUEST_BLOCK), frames.rst_stream(7, 8))
    with pytest.raises(PeerError) as caught:
        for _ in range(MAX_IDLE_FRAMES + 2):
            server.hear(one)
            server.take()
    assert caught.value.code is E.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("useful", [data_frame(1, b"x"), frames.headers(3, REQUEST_BLOCK)])
def test_now_and_then_they_are_harmless(useful: bytes) -> None:
    server = raw_server()
    server.hear(REQUEST)
    for number in range(3, 63, 2):
        for _ in range(MAX_IDLE_FRAMES // 10):
            server.hear(frame(0xFA, 0, 0))
        server.hear(data_frame(1, b"x") if useful[3] == frames.DATA else frames.headers(number, REQUEST_BLOCK))


@pytest.mark.parametrize("one", [frames.ping(bytes(8)), SETTLED], ids=["ping", "settings"])
def test_questions_of_a_peer_that_does_not_read_the_answers(one: bytes) -> None:
    server = raw_server()
    for _ in range(MAX_REPLIES * 3):
        server.hear(one)
        server.take()
    assert error_of(server, one * (MAX_REPLIES + 1)) is E.ENHANCE_YOUR_CALM
    assert len(server.take()) <= MAX_REPLIES * 17


def test_refusals_that_the_peer_does_not_read() -> None:
    server = raw_server()
    with pytest.raises(PeerError) as caught:
        for number in range(1, 2**20, 2):
            server.hear(frames.headers(number, REQUEST_BLOCK))
    assert caught.value.code is E.ENHANCE_YOUR_CALM
    assert len(server.connection.output._parts) < MAX_CONTROL_WAITING


def test_streams_opened_answered_and_reset_by_a_peer_that_does_not_read() -> None:
    server = raw_server()
    with pytest.raises(PeerError) as caught:
        for number in range(1, 2**20, 2):
            server.hear(frames.headers(number, REQUEST_BLOCK), frames.rst_stream(number, 8))
    assert caught.value.code is E.ENHANCE_YOUR_CALM
    assert len(server.connection.output._parts) <= MAX_CONTROL_WAITING + 1


def test_header_lists_over_the_bound_do_not_come_for_ever() -> None:
    server, refused = raw_server(), 0
    many = raw_block(*((f"x{number}", "") for number in range(MAX_FIELDS + 1)))
    with pytest.raises(PeerError) as caught:
        for number in range(1, 2**20, 2):
            server.hear(frames.headers(number, many))
            refused += len(resets(server))
    assert caught.value.code is E.ENHANCE_YOUR_CALM and refused == MAX_EARLY_RESETS


def early_deaths(server: End, death: bytes) -> int:
    """How many streams died before the peer was told to calm down, although it reads."""
    count = 0
    with pytest.raises(PeerError) as caught:
        for number in range(1, 2**20, 2):
            server.hear(frames.headers(number, REQUEST_BLOCK), death[:5] + number.to_bytes(4) + death[9:])
            server.take()
            count += 1
    assert caught.value.code is E.ENHANCE_YOUR_CALM
    return count


@pytest.mark.parametrize(
    "death",
    [frames.rst_stream(1, 8), frames.window_update(1, 0), frames.window_update(1, HUGE)],
    ids=["reset", "made us reset: 0", "made us reset: overflow"],
)
def test_rapid_reset(death: bytes) -> None:
    assert early_deaths(raw_server(accepts=False), death) == MAX_EARLY_RESETS


def test_resets_are_forgiven_for_requests_that_were_answered() -> None:
    server = raw_server(accepts=False)
    for number in range(1, MAX_EARLY_RESETS * 8, 4):
        server.hear(frames.headers(number, REQUEST_BLOCK), frames.rst_stream(number, 8))
        server.hear(frames.headers(number + 2, REQUEST_BLOCK))
        server.connection.respond(server.receivers[number + 2].stream, fields_of(OK), end=True)
        server.take()
        server.connection.table.resets.refill(1)  # time passes


def test_a_continuation_flood_is_bounded_by_the_size_of_the_block() -> None:
    server = raw_server()
    server.hear(frame(frames.HEADERS, 0, 1))
    with pytest.raises(PeerError) as caught:
        for _ in range(100):
            server.hear(frame(frames.CONTINUATION, 0, 1, bytes(1000)))
            assert len(server.connection._control._block) <= 17_000
    assert caught.value.code is E.ENHANCE_YOUR_CALM


def test_a_flood_of_empty_continuations() -> None:
    server = raw_server()
    flood = frame(frames.CONTINUATION, 0, 1) * (MAX_IDLE_FRAMES + 1)
    assert error_of(server, frame(frames.HEADERS, 0, 1) + flood) is E.ENHANCE_YOUR_CALM


def test_a_header_bomb_is_refused_before_it_unfolds() -> None:
    """4000 octets in the table, named ten thousand times in one octet each."""
    bomb = b"\x40\x01a" + b"\x7f\xa1\x1e" + b"b" * 4000 + b"\xbe" * 10_000
    many = raw_block(*((f"x{number}", "") for number in range(MAX_FIELDS + 1)))
    server = raw_server()
    server.hear(frames.headers(1, bomb), frames.headers(3, many), frames.headers(5, REQUEST_BLOCK + b"\xbe"))
    answers = [(kind, stream_id, payload) for kind, _, stream_id, payload in parse(server.take())]
    refused = [(frames.HEADERS, b"\x48\x03431"), (frames.RST_STREAM, bytes(4))]
    assert [(kind, payload) for kind, stream_id, payload in answers if stream_id == 1] == refused
    assert [kind for kind, stream_id, _ in answers if stream_id == 3] == [frames.HEADERS, frames.RST_STREAM]
    assert server.refusals == [f"a header list over {MAX_HEADER_LIST} octets", f"more than {MAX_FIELDS} header fields"]
    assert server.requests == [([*CONNECT, ("a", "b" * 4000)], False)], "the table is in step"


def test_trailers_over_the_bound_fail_their_stream() -> None:
    client = raw_client()
    near, other = client.open(), client.open()
    many = raw_block(*((f"x{number}", "") for number in range(MAX_FIELDS + 1)))
    client.hear(ANSWER, frames.headers(3, OK_BLOCK), frames.headers(1, many, end_stream=True), data_frame(3, b"fine"))
    assert near.reset_with == E.ENHANCE_YOUR_CALM and other.received == b"fine"


def test_young_streams_that_carried_nothing_may_not_be_reset_too_often_although_they_were_answered() -> None:
    server = raw_server()
    count = 0
    with pytest.raises(PeerError, match="sends nothing and resets them") as caught:
        for number in range(1, 2**20, 2):
            server.hear(frames.headers(number, REQUEST_BLOCK))
            assert server.receivers[number].stream.answer_seen
            server.hear(frames.rst_stream(number, 8))
            server.take()
            count += 1
    assert caught.value.code is E.ENHANCE_YOUR_CALM
    assert count == MAX_EMPTY_RESETS


@pytest.mark.parametrize("why", ["it carried", "it lived", "time passed"])
def test_resets_of_real_streams_are_nobodys_business(why: str) -> None:
    server = raw_server()
    for number in range(1, 8 * MAX_EMPTY_RESETS, 2):
        server.hear(frames.headers(number, REQUEST_BLOCK))
        if why == "it carried":
            server.hear(data_frame(number, b"x"))
        elif why == "it lived":
            server.connection.tick()
            server.connection.tick()
        else:
            server.connection.table.resets.refill(1 / EMPTY_RESETS_A_SECOND)
        server.hear(frames.rst_stream(number, 8))
        server.take()


def test_many_streams_at_once_are_handed_over_a_few_in_each_turn() -> None:
    server = raw_server()
    many = range(1, 6 * NEW_STREAMS_A_TURN, 2)
    server.connection.receive(b"".join(frames.headers(number, REQUEST_BLOCK) for number in many) + data_frame(1, b"x"))
    turns = [len(server.receivers)]
    while server.connection.held:
        server.take()
        server.connection.receive(b"")  # nothing of what was kept back is taken before its turn
        assert len(server.receivers) == turns[-1]
        server.connection.go_on()
        turns.append(len(server.receivers))
    assert turns == [NEW_STREAMS_A_TURN * n for n in (1, 2, 3, 3)]
    assert server.receivers[1].received == b"x", "in the order in which it came"
