"""What the relay is told when the kernel answers, and when it refuses."""

from __future__ import annotations

import logging
from typing import cast

import pytest

from control.wire.address import SocketAddress
from nodeagent.loader.errors import BpfError
from nodeagent.splice.abi import Flag
from nodeagent.splice.figures import SplicedBytes
from nodeagent.splice.port import SplicePort
from nodeagent.splice.splicer import Splicer, SpliceState

CLIENT, LISTENER = SocketAddress("127.0.0.1", 40000), SocketAddress("127.0.0.1", 15001)


class FakeSplicer:
    """Answers as told, or fails as a kernel does."""

    def __init__(self, state: SpliceState = SpliceState.WAITING, *, fails: bool = False) -> None:
        self.state = state
        self.fails = fails
        self.calls: list[tuple[object, ...]] = []

    def _call(self, *call: object) -> None:
        self.calls.append(call)
        if self.fails:
            raise BpfError("cannot do it", 1)

    def prepare(self, cookie: int, client: SocketAddress, listener: SocketAddress) -> int | None:
        self._call("prepare", cookie, client, listener)
        return cookie

    def dialling(self, flow: int, descriptor: int) -> None:
        self._call("dialling", flow, descriptor)

    def enable(self, flow: int) -> SpliceState:
        self._call("enable", flow)
        return self.state

    def forget(self, flow: int) -> None:
        self._call("forget", flow)

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
    assert ours.prepare(7, CLIENT, LISTENER) == 7
    assert ours.dialling(7, 3)
    assert ours.counters(7) == SplicedBytes(7, 2, 3.0)
    ours.forget(7)
    assert splicer.calls == [("prepare", 7, CLIENT, LISTENER), ("dialling", 7, 3), ("forget", 7)]


@pytest.mark.parametrize("state", SpliceState)
def test_only_a_waiting_flow_is_offered_again(state: SpliceState) -> None:
    assert port(FakeSplicer(state)).offer(7) is (state is SpliceState.WAITING)


def test_what_the_kernel_refuses_stops_no_connection(caplog: pytest.LogCaptureFixture) -> None:
    ours = port(FakeSplicer(fails=True))
    assert ours.prepare(7, CLIENT, LISTENER) is None
    assert ours.dialling(7, 3) is False
    assert ours.offer(7) is False
    ours.forget(7)
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 4


def test_stuck_flows_are_told_in_words() -> None:
    told = dict(port(FakeSplicer()).stuck({7, 8}))
    assert told[7] == "out splice"
    assert sorted(told[8].split(", ")) == ["out splice", "out waitall"]
