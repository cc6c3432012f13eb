"""Our client against our server, with everything that either may do in any order and every message cut anywhere.

What holds at every moment: a stream delivers exactly the bytes that were sent, in order, and its end after them; no
more is unread than was granted; nobody waits for room that is there; a closed stream is silent. What holds in the
end: a stream that nobody reads has held up no other, and everything that was reserved is given back.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, precondition, rule

from nodeagent.http2 import frames, output
from nodeagent.http2.errors import ErrorCode
from nodeagent.http2.frames import Chunk
from nodeagent.http2.headers import fields_of
from nodeagent.http2.stream import Stream
from nodeagent.http2.table import Role
from nodeagent.http2.windows import (
    CONNECTION_WINDOW,
    FIRST_STREAM_WINDOW,
    MAX_STREAM_WINDOW,
    ReceiveWindow,
    WindowBudget,
)
from tests.support.tunnel import CONNECT, OK, End, Receiver

BUDGET = 3 * FIRST_STREAM_WINDOW
PATTERN = bytes(range(251)) * 5000
SIZES = st.one_of(
    st.sampled_from([1, 4095, 4096, 16_385, 65_536, FIRST_STREAM_WINDOW, 700_000]),
    st.integers(0, 100_000),
)
OCTETS = st.integers(0, MAX_STREAM_WINDOW)
SIDES = st.sampled_from(["client", "server"])


def piece(stream_id: int, at: int, size: int) -> bytes:
    """The bytes of a stream from a position on; another stream's differ."""
    start = (at + stream_id * 7) % 251
    return PATTERN[start : start + size]


class Party(Receiver):
    """One end of one stream: a source that obeys, and a reader that knows what must come."""

    def __init__(self, stream: Stream, *, reads: bool) -> None:
        super().__init__(stream, reads=reads)
        self.sent = 0
        self.ended = False
        self.blocked = False
        self.more = 0  # what it sends as soon as it may
        self.other: Party | None = None

    def send(self, size: int) -> None:
        if self.ended or self.stream.closed:
            return
        if self.blocked:
            self.more = min(self.more + size, 300_000)
            return
        data = piece(self.stream.id, self.sent, size)
        self.sent += size
        self.blocked = not self.stream.send(data)
        assert self.blocked == bool(self.stream.queue)

    def end(self) -> None:
        if not self.more:
            self.ended = True
            self.stream.end()

    def writable(self) -> None:
        super().writable()
        assert self.blocked, "nobody waited"
        self.blocked = False
        more, self.more = self.more, 0
        self.send(more)

    def data(self, got: Chunk) -> None:
        assert bytes(got) == piece(self.stream.id, len(self.received), len(got))
        super().data(got)
        assert self.other is None or len(self.received) <= self.other.sent

    def ended_by_peer(self) -> None:
        super().ended_by_peer()
        assert self.other is not None and self.other.ended
        assert len(self.received) == self.other.sent


class Server(End):
    """An end whose streams are answered when somebody says so. Each party knows the other."""

    def __init__(self, client: End, budget: WindowBudget) -> None:
        super().__init__(Role.SERVER, budget=budget)
        self.client = client
        self.unanswered: list[Stream] = []

    def stream_opened(self, stream: Stream, headers: object, *, ended: bool) -> None:
        far, near = Party(stream, reads=stream.id % 4 == 1), self.client.receivers[stream.id]
        assert isinstance(near, Party)
        far.other, near.other = near, far
        self.receivers[stream.id] = far
        self.unanswered.append(stream)


class Tunnel(RuleBasedStateMachine):
    """The two ends and the wires between them."""

    parties = Bundle("parties")

    @initialize()
    def begin(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(output, "MAX_OUTPUT", 64 * 1024)  # so that it is reached
        self.budgets = {"client": WindowBudget(BUDGET), "server": WindowBudget(BUDGET)}
        self.client = End(Role.CLIENT, budget=self.budgets["client"])
        self.server = Server(self.client, self.budgets["server"])
        self.wires = {"client": bytearray(), "server": bytearray()}
        self.opened: list[Party] = []
        self.steps = 0

    def side(self, name: str) -> End:
        return self.client if name == "client" else self.server

    # --- what the owners do ---

    @precondition(lambda self: self.client.connection.can_open)
    @rule(target=parties, reads=st.booleans(), sends=SIZES)
    def open(self, reads: bool, sends: int) -> object:
        stream = self.client.connection.open_stream(fields_of([*CONNECT, ("baggage", f"n={len(self.opened)}")]))
        near = Party(stream, reads=reads)
        self.client.receivers[stream.id] = near
        self.opened.append(near)
        near.send(sends)
        return multiple(near)

    @rule(near=parties, at=SIDES, size=SIZES, times=st.integers(1, 4))
    def send(self, near: Party, at: str, size: int, times: int) -> None:
        party = self.party(near, at)
        if party is not None:
            for _ in range(times):
                party.send(size)

    @rule(near=parties, at=SIDES)
    def end(self, near: Party, at: str) -> None:
        party = self.party(near, at)
        if party is not None and not party.stream.closed:
            party.end()

    @rule(near=parties, at=SIDES)
    def reset(self, near: Party, at: str) -> None:
        party = self.party(near, at)
        if party is not None:
            party.stream.reset(ErrorCode.CANCEL)

    @rule(near=parties, at=SIDES, reads=st.booleans())
    def turn_reading(self, near: Party, at: str, reads: bool) -> None:
        party = self.party(near, at)
        if party is not None:
            party.reads = reads

    @rule(near=parties, at=SIDES, octets=st.integers(1, 400_000), keeps_up=st.booleans())
    def read(self, near: Party, at: str, octets: int, keeps_up: bool) -> None:
        party = self.party(near, at)
        if party is not None:
            party.read(octets, keeps_up=keeps_up)

    @rule()
    def answer(self) -> None:
        for stream in self.server.unanswered:
            self.server.connection.respond(stream, fields_of(OK))
        self.server.unanswered.clear()

    # --- what the transports do ---

    @rule(at=SIDES, yes=st.booleans())
    def congest(self, at: str, yes: bool) -> None:
        self.side(at).connection.congested(yes)

    @rule(at=SIDES)
    def write(self, at: str) -> None:
        self.wires[at] += self.side(at).take()

    @rule(at=SIDES, octets=st.one_of(st.integers(1, 40), st.integers(1, 200_000)))
    def deliver(self, at: str, octets: int) -> None:
        """``at`` hears so much of what the other side wrote."""
        wire = self.wires["server" if at == "client" else "client"]
        data = bytes(wire[:octets])
        del wire[:octets]
        if data:
            self.side(at).hear(data)

    @rule(turns=st.integers(1, 3))
    def exchange(self, turns: int) -> None:
        """Both write, hear all of it, and the server answers: else too few stories get anywhere."""
        for _ in range(turns):
            for name, other in (("client", "server"), ("server", "client")):
                self.write(name)
                self.deliver(other, len(self.wires[name]))
            self.answer()

    # --- what the protocol allows besides ---

    @rule(
        at=SIDES,
        window=st.integers(0, FIRST_STREAM_WINDOW),
        frame=st.integers(16_384, 1_000_000),
        table=st.integers(0, 4096),
    )
    def change_settings(self, at: str, window: int, frame: int, table: int) -> None:
        """Only smaller windows than the real ones: the real ones are never exceeded then."""
        sizes = {frames.INITIAL_WINDOW_SIZE: window, frames.MAX_FRAME_SIZE: frame, frames.HEADER_TABLE_SIZE: table}
        self.set(at, sizes)

    @rule(at=SIDES)
    def ping(self, at: str) -> None:
        self.side(at).connection.ping()

    @precondition(lambda self: self.steps > 45)
    @rule()
    def go_away(self) -> None:
        self.server.connection.go_away()

    def set(self, at: str, values: dict[int, int]) -> None:
        self.side(at).connection.output.put(frames.settings(values))

    def party(self, near: Party, at: str) -> Party | None:
        if at == "client":
            return near
        far = near.other
        return far if far is not None and far.stream.answer_seen else None

    # --- what holds at every moment ---

    @invariant()
    def nobody_waits_for_room_that_is_there(self) -> None:
        if not hasattr(self, "client"):
            return
        self.steps += 1
        for side in (self.client, self.server):
            end = side.connection
            assert end.output.send_window >= 0
            waiting = end.output.waiting
            for stream in end.streams.values():
                assert stream.queued == sum(map(len, stream.queue))
                assert bool(stream.queue) >= (stream.id in waiting) >= bool(stream.queue and stream.send_window > 0)
            assert set(waiting) <= set(end.streams)
            if end.output.has_room and end.output.send_window > 0:
                assert not waiting
            assert bool(end.output._parts) == side.output_waits

    @invariant()
    def nothing_is_granted_beyond_the_bounds(self) -> None:
        if not hasattr(self, "client"):
            return
        for name, side in (("client", self.client), ("server", self.server)):
            streams = side.connection.streams.values()
            beyond = sum(stream.receive_window.size - FIRST_STREAM_WINDOW for stream in streams)
            assert self.budgets[name].left == BUDGET - beyond >= 0
            assert 0 <= side.connection._receive_window <= CONNECTION_WINDOW

    # --- what holds in the end ---

    def flow(self) -> None:
        while any(self.wires.values()) or self.client.output_waits or self.server.output_waits:
            for name in ("client", "server"):
                self.write(name)
                self.deliver("server" if name == "client" else "client", len(self.wires[name]))
            self.answer()

    def teardown(self) -> None:
        if not hasattr(self, "client"):
            return
        for name in ("client", "server"):
            self.congest(name, False)
            self.set(name, {frames.INITIAL_WINDOW_SIZE: FIRST_STREAM_WINDOW})
        self.flow()
        self.all_that_is_read_has_arrived()
        for side in (self.client, self.server):
            for party in side.receivers.values():
                party.reads = True
                party.read()
        self.flow()
        self.all_that_is_read_has_arrived()
        for side in (self.client, self.server):
            for party in list(side.receivers.values()):
                assert isinstance(party, Party)
                party.end()
        self.flow()
        for side in (self.client, self.server):
            assert side.connection.streams == {}
            assert sorted(side.closed) == sorted(side.receivers)
        assert {budget.left for budget in self.budgets.values()} == {BUDGET}
        self.patch.undo()

    def all_that_is_read_has_arrived(self) -> None:
        """Whoever reads has everything, whether or not others read."""
        for near in self.opened:
            far = near.other
            if far is None or not (far.stream.answer_seen and self.is_whole(near, far)):
                continue
            for reader, writer in ((near, far), (far, near)):
                if reader.reads and not reader.unread:
                    assert len(reader.received) == writer.sent
                    assert reader.half_closed == writer.ended
                    assert not writer.blocked or writer.ended

    @staticmethod
    def is_whole(near: Party, far: Party) -> bool:
        """Neither end has reset it."""
        closed = near.stream.closed or far.stream.closed
        return not closed or (near.half_closed and far.half_closed)


Tunnel.TestCase.settings = settings(
    max_examples=40, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
TestTunnel = Tunnel.TestCase


@given(
    st.lists(st.tuples(OCTETS, OCTETS, st.booleans()), max_size=50),
    st.integers(0, 2 * MAX_STREAM_WINDOW),
)
def test_a_window_counts_every_octet_once(moves: list[tuple[int, int, bool]], octets: int) -> None:
    """What may come, what is unread and what is read but not granted again add up to the window."""
    budget = WindowBudget(octets)
    window = ReceiveWindow(budget)
    unread = owed = 0
    allowed = FIRST_STREAM_WINDOW
    for arrives, is_read, keeps_up in moves:
        size = min(arrives, allowed)
        assert window.received(size)
        allowed -= size
        unread += size
        taken = min(is_read, unread)
        unread -= taken
        before = window.size
        granted = window.consumed(taken, keeps_up=keeps_up)
        allowed += granted
        owed = owed + taken - (granted - (window.size - before))
        assert allowed + unread + owed == window.size <= MAX_STREAM_WINDOW
        assert owed * 2 < window.size, "else both could wait for ever"
        assert budget.left == octets - (window.size - FIRST_STREAM_WINDOW) >= 0
    window.close()
    assert budget.left == octets
