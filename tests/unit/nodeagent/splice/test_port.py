"""What the relay is told when the kernel answers, and when it refuses."""

from __future__ import annotations

import logging
import socket
import sys
from typing import cast

import pytest

from control.wire.address import SocketAddress
from nodeagent.loader.errors import BpfError
from nodeagent.splice.abi import OUT, Flag, SpliceAnswer
from nodeagent.splice.figures import SplicedBytes
from nodeagent.splice.port import LOG_SECONDS, WORDS, SplicePort
from nodeagent.splice.splicer import Splicer, SpliceState

CLIENT, LISTENER = SocketAddress("127.0.0.1", 40000), SocketAddress("127.0.0.1", 15001)
PLACES = (-1, 4)


class FakeSplicer:
    """Answers as told, or fails as a kernel does."""

    def __init__(self, state: SpliceState = SpliceState.WAITING, *, fails: bool = False) -> None:
        self.state = state
        self.fails = fails
        self.stands = (False, Flag(0))
        self.calls: list[tuple[object, ...]] = []
        self.reports: list[list[tuple[int, Flag]]] = []
        """What ``broken`` tells, call by call, before it tells what it always tells."""
        self.answer = SpliceAnswer.DONE
        self.queued = 0
        """Looks that find bytes of a leg that is to leave."""

    def _call(self, *call: object) -> None:
        self.calls.append(call)
        if self.fails:
            raise BpfError("cannot do it", 1)

    def prepare(
        self, cookie: int, client: SocketAddress, listener: SocketAddress, places: tuple[int, int]
    ) -> int | None:
        self._call("prepare", cookie, client, listener, places)
        return cookie

    def dialling(self, flow: int, descriptor: int) -> None:
        self._call("dialling", flow, descriptor)

    def prepare_leg(
        self, number: int, ends: tuple[SocketAddress, SocketAddress], place: int, *, dialled: bool
    ) -> SpliceAnswer:
        self._call("prepare_leg", number, ends, place, dialled)
        return self.answer

    def leave(self, flow: int) -> bool:
        self._call("leave", flow)
        self.queued -= 1
        return self.queued < 0

    def enable(self, flow: int) -> SpliceState:
        self._call("enable", flow)
        return self.state

    def forget(self, flow: int) -> None:
        self._call("forget", flow)

    def disable(self, flow: int) -> None:
        self._call("disable", flow)

    def standing(self, flow: int) -> tuple[bool, Flag]:
        return self.stands

    def unread(self, flow: int) -> tuple[int, int]:
        return (flow, 0)

    def counters(self, flow: int) -> SplicedBytes | None:
        return SplicedBytes(flow, 2, 3.0)

    def broken(self, mine: set[int] | None = None) -> list[tuple[int, Flag]]:
        assert mine == {7, 8}
        if self.reports:
            return self.reports.pop(0)
        return [(7, Flag.OUT_SPLICE), (8, Flag.OUT_WAITALL | Flag.OUT_SPLICE)]


def port(splicer: FakeSplicer) -> SplicePort:
    return SplicePort(cast(Splicer, splicer))


def test_everything_is_passed_on() -> None:
    splicer = FakeSplicer()
    ours = port(splicer)
    assert ours.prepare(7, CLIENT, LISTENER, PLACES) == 7
    assert ours.dialling(7, 3)
    assert ours.counters(7) == SplicedBytes(7, 2, 3.0)
    ours.withdraw(7)
    ours.forget(7)
    assert splicer.calls == [
        ("prepare", 7, CLIENT, LISTENER, PLACES),
        ("dialling", 7, 3),
        ("disable", 7),
        ("forget", 7),
    ]
    assert not any(ours.failures.values())


@pytest.mark.parametrize("state", SpliceState)
def test_only_a_waiting_flow_is_offered_again(state: SpliceState) -> None:
    assert port(FakeSplicer(state)).offer(7) is (state is SpliceState.WAITING)


def test_what_the_kernel_refuses_stops_no_connection_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    ours = port(FakeSplicer(fails=True))
    assert ours.prepare(7, CLIENT, LISTENER, PLACES) is None
    assert ours.dialling(7, 3) is False
    assert ours.offer(7) is False
    ours.withdraw(7)
    ours.forget(7)
    assert ours.failures == dict.fromkeys(("prepare", "dial", "enable", "disable", "forget"), 1)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_failures_are_logged_at_a_bounded_rate(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    ours = SplicePort(cast(Splicer, FakeSplicer(fails=True)), lambda: now[0])
    for _ in range(100):
        ours.forget(7)
    now[0] = LOG_SECONDS - 0.001
    ours.forget(7)
    now[0] = LOG_SECONDS
    ours.forget(7)
    ours.forget(7)
    assert ours.failures["forget"] == 103
    first, second = (record.getMessage() for record in caplog.records)
    assert "more failures" not in first
    assert "(100 more failures since the last such line)" in second


@pytest.mark.parametrize(
    ("spliced", "flags", "words"),
    [
        (True, Flag.ENABLED | Flag.ENROLLED, ""),
        (False, Flag.ENABLED, "nobody was seen reading"),
        (False, Flag.ENABLED | Flag.ENROLLED, "read what waits"),
        (True, Flag.ENROLLED | Flag.OUT_BLOCKING, "blocks in recv()"),
        (False, Flag.OUT_ULP | Flag.OUT_ZEROCOPY, "a program wants a TLS socket, a program sends with MSG_ZEROCOPY"),
    ],
)
def test_why_a_flow_is_relayed(spliced: bool, flags: Flag, words: str) -> None:
    splicer = FakeSplicer()
    splicer.stands = (spliced, flags)
    told = port(splicer).relayed_because(7)
    assert words in told if words else told == ""


ENDS = (CLIENT, LISTENER)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (SpliceAnswer.DONE, (7, True)),
        (SpliceAnswer.WAITING, (7, False)),
        (SpliceAnswer.NO_SOCKET, None),
        (SpliceAnswer.FULL, None),
    ],
)
def test_a_leg_is_prepared_now_later_or_never(answer: SpliceAnswer, told: tuple[int, bool] | None) -> None:
    splicer = FakeSplicer()
    splicer.answer = answer
    assert port(splicer).prepare_leg(7, 3, ENDS, 4) == told
    assert splicer.calls == [("prepare_leg", 7, ENDS, 4, False)]


def test_where_the_agent_dialled_its_own_socket_names_the_leg() -> None:
    splicer = FakeSplicer()
    with socket.socket() as connecting:
        cookie = int.from_bytes(connecting.getsockopt(socket.SOL_SOCKET, 57, 8), sys.byteorder)
        assert port(splicer).prepare_leg(0, connecting.fileno(), ENDS, 4) == (cookie, True)
    assert splicer.calls == [("prepare_leg", cookie, ENDS, 4, True)]


def test_a_leg_that_cannot_be_prepared_stops_nothing() -> None:
    refused = port(FakeSplicer(fails=True))
    assert refused.prepare_leg(7, 3, ENDS, 4) is None
    assert refused.prepare_leg(0, -1, ENDS, 4) is None, "a socket that is gone"
    assert refused.failures["prepare"] == 2


def test_a_leg_that_is_bulk_leaves_when_what_waits_was_read() -> None:
    splicer = FakeSplicer()
    splicer.reports, splicer.queued = [[(7, Flag.OUT_BULK)], [], [], []], 2
    ours = port(splicer)
    for _ in range(3):
        assert ours.stuck({7, 8}) == [], "it is not to be reset"
    assert splicer.calls == [("leave", 7)] * 3
    assert ours.stuck({7, 8}) == []
    assert splicer.calls == [("leave", 7)] * 3, "it has left"


def test_a_leg_that_ended_meanwhile_is_not_asked_to_leave() -> None:
    splicer = FakeSplicer()
    splicer.reports, splicer.queued = [[(7, Flag.OUT_BULK)], []], 5
    ours = port(splicer)
    ours.stuck({7, 8})
    ours.forget(7)
    ours.stuck({7, 8})
    assert splicer.calls == [("leave", 7), ("forget", 7)]


def test_every_way_out_has_words() -> None:
    covered = Flag(0)
    for flag in WORDS:
        covered |= flag
    assert covered == OUT


def test_stuck_flows_are_told_in_words() -> None:
    told = dict(port(FakeSplicer()).stuck({7, 8}))
    assert told[7] == "out splice"
    assert sorted(told[8].split(", ")) == ["out splice", "out waitall"]
