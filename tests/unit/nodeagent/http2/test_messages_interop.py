"""Messages of any method in both roles, with h2 at the other end and all of its checks on: interim responses, trailers,
early responses, large heads, contents as long as announced, and the bounds of one use beside those of another."""

from __future__ import annotations

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest

from nodeagent.http2 import frames
from nodeagent.http2.errors import ErrorCode
from nodeagent.http2.headers import Headers, fields_of
from nodeagent.http2.hpack.octets import SIZE_UPDATE, integer
from nodeagent.http2.limits import ConnectionLimits
from nodeagent.http2.table import Role
from tests.support.tunnel import End, Receiver, data_frame, parse, raw_block

LIMITS = ConnectionLimits(
    checked=True, header_block=64 * 1024, header_list=64 * 1024, server_streams=3, client_streams=2, decoder_table=1024
)
GET: Headers = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "web")]
POST: Headers = [(":method", "POST"), *GET[1:]]
HEAD: Headers = [(":method", "HEAD"), *GET[1:]]
CONNECT: Headers = [(":method", "CONNECT"), GET[3]]
OK: Headers = [(":status", "200")]
STATUS: Headers = [("grpc-status", "0"), ("grpc-message", "")]
HINTS: Headers = [(":status", "103"), ("link", "</style.css>; rel=preload")]


class Other:
    """An h2 connection joined to an end of ours."""

    def __init__(self, role: Role, limits: ConnectionLimits = LIMITS, settings: dict[int, int] | None = None) -> None:
        """``role`` is ours."""
        self.ours = End(role, accepts=False, limits=limits)
        config = h2.config.H2Configuration(client_side=role is Role.SERVER, header_encoding="utf-8")
        self.h2 = h2.connection.H2Connection(config)
        self.events: list[h2.events.Event] = []
        self.h2.initiate_connection()
        if settings:
            self.h2.update_settings(settings)
        self.flow()

    def flow(self) -> None:
        """Carry everything until both are silent."""
        while True:
            out = self.h2.data_to_send()
            self.ours.hear(out)
            if not self.ours.output_waits and not out:
                return
            for event in self.h2.receive_data(self.ours.take()) if self.ours.output_waits else ():
                self.events.append(event)
                if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    def heads(self, kind: type[h2.events.Event]) -> list[Headers]:
        return [[tuple(p) for p in event.headers] for event in self.events if isinstance(event, kind)]

    def ask(self, headers: Headers, *, end: bool = False) -> Receiver:
        """We are the client."""
        stream = self.ours.connection.open_stream(fields_of(headers), end=end)
        receiver = self.ours.receivers[stream.id] = Receiver(stream)
        self.flow()
        return receiver

    def asked(self, headers: Headers, *, end: bool = False) -> Receiver:
        """h2 is the client."""
        number = self.h2.get_next_available_stream_id()
        self.h2.send_headers(number, headers, end_stream=end)
        self.flow()
        return self.ours.receivers[number]


def test_a_request_without_content_and_an_answer_with_everything() -> None:
    other = Other(Role.CLIENT)
    near = other.ask(GET, end=True)
    assert other.heads(h2.events.RequestReceived) == [GET]
    assert any(isinstance(event, h2.events.StreamEnded) for event in other.events)
    other.h2.send_headers(1, [(":status", "100")])
    other.h2.send_headers(1, HINTS)
    other.h2.send_headers(1, [*OK, ("content-length", "4")])
    other.h2.send_data(1, b"body")
    other.h2.send_headers(1, STATUS, end_stream=True)
    other.flow()
    assert near.interims == [[(":status", "100")], HINTS]
    assert near.headers == [*OK, ("content-length", "4")] and near.received == b"body"
    assert near.trailers_seen == STATUS and near.half_closed and other.ours.closed == [1]


def test_we_answer_with_everything() -> None:
    other = Other(Role.SERVER)
    far = other.asked(GET, end=True)
    connection = other.ours.connection
    connection.inform(far.stream, fields_of(HINTS))
    connection.respond(far.stream, fields_of(OK))
    connection.inform(far.stream, fields_of(HINTS))  # too late: nothing
    far.stream.send(b"body")
    far.stream.end(fields_of(STATUS))
    other.flow()
    assert other.heads(h2.events.InformationalResponseReceived) == [HINTS]
    assert other.heads(h2.events.ResponseReceived) == [OK]
    assert other.heads(h2.events.TrailersReceived) == [STATUS]
    assert other.ours.closed == [1]


@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
def test_trailers_wait_for_the_bytes_before_them_and_tables_stay_in_step(role: Role) -> None:
    """The trailers are compressed when they leave, after blocks of streams that were not held up."""
    settings = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 5}
    other = Other(role, settings=settings)
    if role is Role.SERVER:
        slow, quick = other.asked(POST), other.asked(POST)
        other.ours.connection.respond(slow.stream, fields_of(OK))
    else:
        slow, quick = other.ask(POST), other.ask(POST)
    slow.stream.send(b"0123456789")
    slow.stream.end(fields_of([("x-late", "1"), *STATUS]))
    if role is Role.SERVER:
        other.ours.connection.respond(quick.stream, fields_of([*OK, ("x-quick", "1")]))
    quick.stream.end(fields_of([("x-quick", "2")]))
    other.flow()
    assert other.heads(h2.events.TrailersReceived)[0] == [("x-quick", "2")]
    other.h2.increment_flow_control_window(100, slow.stream.id)
    other.flow()
    assert other.heads(h2.events.TrailersReceived)[-1] == [("x-late", "1"), *STATUS]


def test_trailers_of_a_request() -> None:
    other = Other(Role.SERVER)
    far = other.asked([*POST, ("content-length", "3")])
    other.h2.send_data(1, b"abc")
    other.h2.send_headers(1, [("x-checksum", "1")], end_stream=True)
    other.flow()
    assert far.received == b"abc" and far.trailers_seen == [("x-checksum", "1")] and far.half_closed


def test_an_early_response_to_an_upload() -> None:
    """RFC 9113, 8.1: the response counts, then the reset without error stops the upload."""
    other = Other(Role.CLIENT)
    near = other.ask(POST)
    near.stream.send(b"part")
    other.h2.send_headers(1, [(":status", "413")], end_stream=True)
    other.h2.reset_stream(1, ErrorCode.NO_ERROR)
    other.flow()
    assert near.headers == [(":status", "413")] and near.half_closed
    assert near.reset_with == ErrorCode.NO_ERROR and near.stream.closed


def test_our_early_response_is_whole() -> None:
    other = Other(Role.SERVER)
    far = other.asked(POST)
    other.ours.connection.respond(far.stream, fields_of([(":status", "413")]))
    far.stream.send(b"too large")
    far.stream.end()
    assert not far.stream.closed, "the upload is still read"
    far.stream.reset(ErrorCode.NO_ERROR)
    other.flow()
    assert other.heads(h2.events.ResponseReceived) == [[(":status", "413")]]
    kinds = [type(event) for event in other.events]
    assert kinds.index(h2.events.StreamEnded) < kinds.index(h2.events.StreamReset)


@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
def test_heads_longer_than_a_frame(role: Role) -> None:
    other = Other(role)
    long = ("x-long", "y" * 40_000)
    other.h2.update_settings({h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: 2**17})
    other.h2.decoder.max_header_list_size = 2**17
    other.flow()
    if role is Role.CLIENT:
        near = other.ask([*GET, long], end=True)
        assert other.heads(h2.events.RequestReceived) == [[*GET, long]]
        other.h2.send_headers(1, [*OK, long])
        other.flow()
        assert near.headers == [*OK, long]
    else:
        other.asked([*GET, long], end=True)
        assert other.ours.requests == [([*GET, long], True)]


def test_the_bounds_of_one_use_are_not_those_of_another() -> None:
    other = Other(Role.SERVER)
    codes = h2.settings.SettingCodes
    assert other.h2.remote_settings[codes.MAX_CONCURRENT_STREAMS] == 3
    assert other.h2.remote_settings[codes.MAX_HEADER_LIST_SIZE] == 64 * 1024
    assert other.h2.encoder.header_table_size == 1024
    for _ in range(3):
        other.asked(POST)
    assert len(other.ours.connection.streams) == 3
    other.ours.hear(frames.headers(99, raw_block(*POST)))
    assert [k for k, _, stream, _ in parse(other.ours.take()) if stream == 99] == [frames.RST_STREAM]


@pytest.mark.parametrize(("allowed", "opened"), [(1, 1), (100, 2)])
def test_streams_that_we_open_are_bounded_by_both_sides(allowed: int, opened: int) -> None:
    other = Other(Role.CLIENT, settings={h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: allowed})
    for _ in range(opened):
        assert other.ours.connection.can_open
        other.ask(POST)
    assert not other.ours.connection.can_open


# --- malformed messages fail their stream only ---


def server() -> Other:
    other = Other(Role.SERVER)
    other.asked(POST)
    return other


@pytest.mark.parametrize(
    "headers",
    [[*GET, ("connection", "close")], GET[:3], [*GET, ("content-length", "1")]],
    ids=["field", "host", "length"],
)
def test_a_malformed_request_reaches_nobody(headers: Headers) -> None:
    other = server()
    other.ours.hear(frames.headers(3, raw_block(*headers), end_stream=True))
    assert other.ours.refusals and 3 not in other.ours.receivers
    reset = frames.rst_stream(3, ErrorCode.PROTOCOL_ERROR)
    assert reset in other.ours.take()
    other.ours.hear(data_frame(1, b"fine"))
    assert other.ours.receivers[1].received == b"fine"


@pytest.mark.parametrize(
    "said",
    [
        data_frame(3, b"1234"),
        data_frame(3, b"12", end=True),
        data_frame(3, b"12") + frames.headers(3, raw_block(*STATUS), end_stream=True),
        data_frame(3, b"123") + frames.headers(3, raw_block((":status", "200")), end_stream=True),
        data_frame(3, b"123") + frames.headers(3, raw_block(("te", "gzip")), end_stream=True),
    ],
    ids=["more", "less", "less, trailers", "pseudo-field in trailers", "bad field in trailers"],
)
def test_content_and_trailers_that_are_malformed(said: bytes) -> None:
    other = server()
    other.ours.hear(frames.headers(3, raw_block(*POST, ("content-length", "3"))), said)
    receiver = other.ours.receivers[3]
    assert receiver.reset_with == ErrorCode.PROTOCOL_ERROR and receiver.stream.fault
    assert not receiver.half_closed, "what was cut never looks complete"


@pytest.mark.parametrize(
    ("request_headers", "said", "fault"),
    [
        (GET, frames.headers(1, raw_block((":status", "600"))), True),
        (GET, frames.headers(1, raw_block((":status", "103")), end_stream=True), True),
        (GET, frames.headers(1, raw_block(*OK, ("content-length", "1")), end_stream=True), True),
        (GET, frames.headers(1, raw_block((":status", "204"))) + data_frame(1, b"x"), True),
        (HEAD, frames.headers(1, raw_block(*OK, ("content-length", "9")), end_stream=True), False),
        (HEAD, frames.headers(1, raw_block(*OK)) + data_frame(1, b"x"), True),
        (GET, frames.headers(1, raw_block((":status", "304"), ("content-length", "9")), end_stream=True), False),
        (CONNECT, frames.headers(1, raw_block(*OK, ("content-length", "1"))) + data_frame(1, b"xy"), False),
    ],
    ids=["600", "103 ends", "no content", "204 with content", "HEAD", "HEAD with content", "304", "CONNECT"],
)  # fmt: skip
def test_responses_and_their_content(request_headers: Headers, said: bytes, fault: bool) -> None:
    other = Other(Role.CLIENT)
    near = other.ask(request_headers)
    other.ours.hear(frames.headers(1, integer(SIZE_UPDATE, 0x1F, 1024) + raw_block((":status", "103"))), said)
    assert (near.reset_with == ErrorCode.PROTOCOL_ERROR) == fault and bool(near.stream.fault) == fault
