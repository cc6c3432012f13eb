"""Our end against an independent one: the h2 library as client and as server.

h2 wants :scheme and :path in every request, so its own checks of header lists are off; everything else of it is on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import pytest

from nodeagent.http2 import frames
from nodeagent.http2.errors import ErrorCode, PeerError
from nodeagent.http2.headers import fields_of
from nodeagent.http2.limits import MAX_FRAME_RECEIVED, MAX_FRAME_SENT
from nodeagent.http2.table import Role
from nodeagent.http2.windows import CONNECTION_WINDOW, FIRST_STREAM_WINDOW
from tests.support.tunnel import CONNECT, OK, Cutter, End, Receiver, octets, whole

Codes = h2.settings.SettingCodes
E = TypeVar("E")


class Foreign:
    """An h2 connection joined to an end of ours. h2 reads at once unless ``reads`` is off."""

    def __init__(self, role: Role, cut: Cutter = whole, *, reads: bool = True) -> None:
        """``role`` is ours."""
        self.cut = cut
        self.reads = reads
        self.ours = End(role)
        config = h2.config.H2Configuration(
            client_side=role is Role.SERVER,
            header_encoding="utf-8",
            validate_inbound_headers=False,
            validate_outbound_headers=False,
        )
        self.h2 = h2.connection.H2Connection(config)
        self.events: list[h2.events.Event] = []
        self.h2.initiate_connection()
        self.flow()

    def flow(self) -> None:
        """Carry everything until both are silent."""
        while True:
            out = self.h2.data_to_send()
            self.ours.hear(*self.cut(out))
            if not self.ours.output_waits:
                if not out:
                    return
                continue
            for piece in self.cut(self.ours.take()):
                self._heard(self.h2.receive_data(piece))

    def _heard(self, events: Iterable[h2.events.Event]) -> None:
        for event in events:
            self.events.append(event)
            if isinstance(event, h2.events.DataReceived) and self.reads and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    def of(self, kind: type[E]) -> list[E]:
        """The events of a kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    def received(self, stream_id: int) -> bytes:
        """What h2 got on a stream."""
        return b"".join(event.data for event in self.of(h2.events.DataReceived) if event.stream_id == stream_id)

    def request(self) -> Receiver:
        """h2 is the client: open a stream to us."""
        stream_id = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream_id, CONNECT)
        self.flow()
        return self.ours.receivers[stream_id]

    def requested(self) -> Receiver:
        """We are the client: open a stream that h2 accepts."""
        near = self.ours.open()
        self.flow()
        self.h2.send_headers(near.stream.id, OK)
        self.flow()
        return near

    def stream(self) -> Receiver:
        """A stream open at both ends; our receiver of it."""
        return self.request() if self.ours.connection.role is Role.SERVER else self.requested()

    def send(self, stream_id: int, data: bytes) -> None:
        """h2 sends, as its windows allow; we read, so that in the end all goes."""
        while data:
            size = min(len(data), self.h2.local_flow_control_window(stream_id), self.h2.max_outbound_frame_size)
            assert size > 0, "our windows are shut although we read"
            self.h2.send_data(stream_id, data[:size])
            data = data[size:]
            self.flow()


@pytest.fixture(
    params=[(role, cut) for role in Role for cut in (whole, octets)], ids=lambda p: f"{p[0].value}-{p[1].__name__}"
)
def foreign(request: pytest.FixtureRequest) -> Foreign:
    role, cut = request.param
    return Foreign(role, cut)


BOTH = pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)


def test_settings_are_exchanged(foreign: Foreign) -> None:
    assert foreign.ours.is_settled
    assert foreign.of(h2.events.SettingsAcknowledged)
    assert foreign.h2.remote_settings.initial_window_size == FIRST_STREAM_WINDOW
    assert foreign.h2.remote_settings.max_frame_size == MAX_FRAME_RECEIVED
    assert foreign.h2.outbound_flow_control_window == CONNECTION_WINDOW


def test_a_tunnel_end_to_end(foreign: Foreign) -> None:
    ours = foreign.stream()
    number = ours.stream.id
    ours.stream.send(b"from us")
    foreign.send(number, b"from h2")
    ours.stream.send(b", again")
    ours.stream.end()
    foreign.flow()
    foreign.send(number, b", after our end")
    foreign.h2.end_stream(number)
    foreign.flow()
    assert foreign.received(number) == b"from us, again"
    assert ours.received == b"from h2, after our end"
    assert ours.half_closed and foreign.ours.closed == [number]
    assert [event.stream_id for event in foreign.of(h2.events.StreamEnded)] == [number]


def test_headers_are_understood_and_the_tables_stay_in_step(foreign: Foreign) -> None:
    for _ in range(3):
        foreign.stream()
    if foreign.ours.connection.role is Role.SERVER:
        assert [headers for headers, _ in foreign.ours.requests] == [CONNECT] * 3
        answers = foreign.of(h2.events.ResponseReceived)
        assert [[tuple(pair) for pair in event.headers] for event in answers] == [OK] * 3
    else:
        requests = foreign.of(h2.events.RequestReceived)
        assert [[tuple(pair) for pair in event.headers] for event in requests] == [CONNECT] * 3
        assert [receiver.headers for receiver in foreign.ours.receivers.values()] == [OK] * 3


@BOTH
def test_megabytes_both_ways(role: Role) -> None:
    foreign = Foreign(role)
    ours = foreign.stream()
    payload = bytes(range(256)) * 4096 * 20  # past every window there is
    ours.stream.send(payload)
    foreign.flow()
    foreign.send(ours.stream.id, payload)
    assert foreign.received(ours.stream.id) == payload
    assert ours.received == payload
    assert ours.stream.queued == 0


@BOTH
def test_frames_as_large_as_either_allows(role: Role) -> None:
    foreign = Foreign(role)
    ours = foreign.stream()
    foreign.h2.update_settings({Codes.MAX_FRAME_SIZE: 2**24 - 1, Codes.INITIAL_WINDOW_SIZE: 2**22})
    foreign.h2.increment_flow_control_window(2**22)
    foreign.flow()
    ours.stream.send(bytes(MAX_FRAME_SENT * 4))
    foreign.flow()
    assert {len(e.data) for e in foreign.of(h2.events.DataReceived)} == {MAX_FRAME_SENT}
    foreign.h2.send_data(ours.stream.id, bytes(FIRST_STREAM_WINDOW))
    foreign.flow()
    assert len(ours.received) == FIRST_STREAM_WINDOW


def test_padding(foreign: Foreign) -> None:
    ours = foreign.stream()
    number = ours.stream.id
    for length in (0, 1, 255):
        foreign.h2.send_data(number, b"x", pad_length=length)
        foreign.flow()
    foreign.h2.send_data(number, b"end", pad_length=9, end_stream=True)
    foreign.flow()
    assert ours.received == b"xxxend" and ours.half_closed


def test_windows_that_shrink_below_zero_and_grow_again(foreign: Foreign) -> None:
    foreign.reads = False
    ours = foreign.stream()
    number = ours.stream.id
    ours.stream.send(bytes(30_000))
    foreign.flow()
    foreign.h2.update_settings({Codes.INITIAL_WINDOW_SIZE: 10})
    foreign.flow()
    assert ours.stream.send_window == 10 - 30_000
    assert not ours.stream.send(b"waits for its turn")
    foreign.h2.increment_flow_control_window(29_990, number)
    foreign.flow()
    assert ours.stream.send_window == 0 and len(foreign.received(number)) == 30_000
    foreign.h2.update_settings({Codes.INITIAL_WINDOW_SIZE: 15})
    foreign.flow()
    assert foreign.received(number).endswith(b"waits") and ours.writable_calls == 0
    foreign.h2.increment_flow_control_window(1000, number)
    foreign.flow()
    assert foreign.received(number).endswith(b"waits for its turn") and ours.writable_calls == 1


def test_pings_both_ways(foreign: Foreign) -> None:
    foreign.ours.connection.ping()
    foreign.h2.ping(b"12345678")
    foreign.flow()
    assert foreign.ours.pongs == 1
    assert [event.ping_data for event in foreign.of(h2.events.PingAckReceived)] == [b"12345678"]


def test_resets_both_ways(foreign: Foreign) -> None:
    first, second = foreign.stream(), foreign.stream()
    first.stream.reset(ErrorCode.CONNECT_ERROR)
    foreign.flow()
    (event,) = foreign.of(h2.events.StreamReset)
    assert (event.stream_id, event.error_code) == (first.stream.id, h2.errors.ErrorCodes.CONNECT_ERROR)
    foreign.h2.reset_stream(second.stream.id, h2.errors.ErrorCodes.INADEQUATE_SECURITY)
    foreign.flow()
    assert second.reset_with == ErrorCode.INADEQUATE_SECURITY
    assert foreign.stream().headers in (None, OK), "the connection goes on"


def test_the_header_table_of_the_other_end_changes(foreign: Foreign) -> None:
    for size in (0, 4096, 100, 2**16):
        foreign.h2.update_settings({Codes.HEADER_TABLE_SIZE: size})
        foreign.flow()
        foreign.stream()
    assert len(foreign.ours.receivers) == 4


def test_interim_answers_continuations_and_trailers() -> None:
    foreign = Foreign(Role.CLIENT)
    near = foreign.ours.open()
    foreign.flow()
    foreign.h2.send_headers(1, [(":status", "103")])
    foreign.h2.streams[1].max_outbound_frame_size = 16  # h2 cuts the block: HEADERS, then CONTINUATION
    foreign.h2.send_headers(1, [*OK, ("x-long", "y" * 100)])
    foreign.h2.streams[1].max_outbound_frame_size = 16_384
    foreign.h2.send_data(1, b"bytes")
    foreign.h2.send_headers(1, [("grpc-status", "0")], end_stream=True)
    foreign.flow()
    assert near.headers == [*OK, ("x-long", "y" * 100)]
    assert near.received == b"bytes" and near.half_closed


def test_a_request_in_continuations() -> None:
    foreign = Foreign(Role.SERVER, octets)
    foreign.h2.max_outbound_frame_size = 5
    foreign.h2.send_headers(1, [*CONNECT, ("baggage", "a=" + "b" * 300)])
    foreign.flow()
    assert foreign.ours.requests == [([*CONNECT, ("baggage", "a=" + "b" * 300)], False)]


def test_the_goaway_of_h2_refuses_what_it_never_saw() -> None:
    foreign = Foreign(Role.CLIENT)
    first = foreign.requested()
    foreign.h2.close_connection(last_stream_id=1, additional_data=b"going")
    second = foreign.ours.open()
    foreign.ours.hear(foreign.h2.data_to_send())
    assert foreign.ours.farewells == [(0, "going")]
    assert second.reset_with == ErrorCode.REFUSED_STREAM and first.reset_with is None
    assert not foreign.ours.connection.can_open


def test_our_goaway_names_the_last_stream() -> None:
    foreign = Foreign(Role.SERVER)
    foreign.request()
    foreign.request()
    foreign.ours.connection.go_away(ErrorCode.ENHANCE_YOUR_CALM, "enough")
    foreign.flow()
    (event,) = foreign.of(h2.events.ConnectionTerminated)
    assert (event.last_stream_id, event.error_code, event.additional_data) == (3, 11, b"enough")


def test_a_refusal_is_understood() -> None:
    foreign = Foreign(Role.SERVER)
    foreign.ours.accepts = False
    receiver = foreign.request()
    foreign.ours.connection.respond(receiver.stream, fields_of([(":status", "401")]), end=True)
    foreign.flow()
    (answer,) = foreign.of(h2.events.ResponseReceived)
    assert [tuple(pair) for pair in answer.headers] == [(":status", "401")]
    assert foreign.of(h2.events.StreamEnded)


@BOTH
def test_h2_objects_to_nothing_that_we_send_while_streams_come_and_go(role: Role) -> None:
    foreign = Foreign(role)
    for turn in range(120):
        ours = foreign.stream()
        ours.stream.send(bytes(turn * 700))
        match turn % 4:
            case 0:
                ours.stream.end()
                foreign.h2.end_stream(ours.stream.id)
            case 1:
                ours.stream.reset()
                foreign.h2.reset_stream(ours.stream.id)
            case 2:
                foreign.h2.reset_stream(ours.stream.id)
                ours.stream.send(b"crossing")
            case _:
                foreign.h2.end_stream(ours.stream.id)
                foreign.flow()
                ours.stream.end()
        foreign.flow()
    assert foreign.ours.connection.streams == {}


def test_what_h2_calls_an_error_we_do_too() -> None:
    foreign = Foreign(Role.SERVER)
    wrong = frames.window_update(0, 0)
    with pytest.raises(h2.exceptions.ProtocolError):
        foreign.h2.receive_data(wrong)
    with pytest.raises(PeerError):
        foreign.ours.hear(wrong)
