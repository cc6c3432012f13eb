"""What the relay is told when the kernel answers, and when it refuses."""

from __future__ import annotations

import logging
from typing import cast

import pytest

from control.wire.address import SocketAddress
from nodeagent.loader.errors import BpfError
from nodeagent.splice.abi import OUT, Flag
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

    def enable(self, flow: int) -> SpliceState:
        self._call("enable", flow)
        return self.state

    def forget(self, flow: int) -> None:
        self._call("forget", flow)

    def disable(self, flow: int) -> None:
        self._call("disable", flow)

    def standing(self, flow: int) -> tuple[bool, Flag]:
        return self.stands

    def counters(self, flow: int) -> SplicedBytes | None:
        return SplicedBytes(flow, 2, 3.0)

    def broken(self, mine: set[int] | None = None) -> list[tuple[int, Flag]]:
        assert mine == {7, 8}
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


def test_every_way_out_has_words() -> None:
    covered = Flag(0)
    for flag in WORDS:
        covered |= flag
    assert covered == OUT


def test_stuck_flows_are_told_in_words() -> None:
    told = dict(port(FakeSplicer()).stuck({7, 8}))
    assert told[7] == "out splice"
    assert sorted(told[8].split(", ")) == ["out splice", "out waitall"]
