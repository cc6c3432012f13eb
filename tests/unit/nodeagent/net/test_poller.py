"""The worker's epoll: everybody has a turn, nobody hears of another's descriptor, defects stay where they are."""

from __future__ import annotations

import os
import socket
from select import EPOLLIN

import pytest

from nodeagent.net.poller import MAX_EVENTS, ROUNDS
from tests.support.polled import Bench, Recorder, polled


class Event:
    """A descriptor that is ready until somebody reads it; it counts how often it is told."""

    def __init__(self, bench: Bench, told: list[Event]) -> None:
        self.bench = bench
        self.told = told
        self.descriptor = os.eventfd(1, os.EFD_NONBLOCK)
        self.then = lambda: None
        bench.poller.add(self.descriptor, self, EPOLLIN)

    def ready(self, events: int) -> None:
        assert events == EPOLLIN
        self.told.append(self)
        self.then()

    def abort(self) -> None:
        if self.descriptor in self.bench.poller._watched:
            self.bench.poller.doom(self.descriptor, self)

    def bury(self) -> None:
        os.close(self.descriptor)
        self.descriptor = -1


@polled
async def test_one_that_is_always_ready_does_not_starve_the_loop(bench: Bench) -> None:
    told: list[Event] = []
    busy = Event(bench, told)
    turns = 20
    await bench.turns(turns)
    assert len(told) <= (turns + 1) * ROUNDS
    protocol = Recorder()
    transport, other = bench.pair(protocol)
    await bench.loop.sock_sendall(other, b"me too")
    await protocol.until(lambda: protocol.data)
    transport.abort()
    busy.abort()


@polled
async def test_more_than_are_looked_at_in_one_round_all_have_their_turn(bench: Bench) -> None:
    told: list[Event] = []
    count = 5 * MAX_EVENTS + 1
    all_ready = [Event(bench, told) for _ in range(count)]
    while len(told) < 3 * count:
        before = len(told)
        await bench.turns(1)
        assert len(told) - before <= ROUNDS * MAX_EVENTS
    assert max(map(told.count, all_ready)) - min(map(told.count, all_ready)) <= ROUNDS
    for each in all_ready:
        each.abort()


@polled
async def test_one_that_was_let_go_in_the_same_round_is_not_told(bench: Bench) -> None:
    told: list[Event] = []
    pair = [Event(bench, told), Event(bench, told)]
    pair[0].then, pair[1].then = pair[1].abort, pair[0].abort
    await bench.turns(5)
    assert len(told) >= 1 and len(set(told)) == 1
    told[0].abort()


@polled
async def test_a_descriptor_is_closed_when_no_handler_runs(bench: Bench) -> None:
    """Else what is due for the old socket would be told to a new one by the same number."""
    told: list[Event] = []
    made: list[int] = []
    event = Event(bench, told)

    def replace() -> None:
        event.abort()
        with socket.socket() as another:
            made.append(another.fileno())

    number, event.then = event.descriptor, replace
    await bench.turns(5)
    assert len(made) == 1 and made[0] != number
    assert event.descriptor == -1


@polled
async def test_a_defect_ends_its_own_connection_only(bench: Bench) -> None:
    bad, good = Recorder(), Recorder()
    _, to_bad = bench.pair(bad)
    transport, to_good = bench.pair(good)

    def defect() -> None:
        raise ZeroDivisionError

    bad.on_data = defect
    to_bad.send(b"x")
    to_good.send(b"y")
    await bad.lost.wait()
    await good.until(lambda: good.data == b"y")
    with pytest.raises(ConnectionResetError):
        await bench.read_to_end(to_bad)
    assert bench.said() == ["defect while handling an application's socket"]
    transport.abort()


@polled
async def test_a_defect_at_the_end_of_one_connection_does_not_keep_another_open(bench: Bench) -> None:
    bad, good = Recorder(), Recorder()
    bad.lost.set = lambda: 1 // 0  # type: ignore[method-assign,assignment,return-value]
    (first, _), (second, _) = bench.pair(bad), bench.pair(good)
    first.abort()
    second.abort()
    await good.lost.wait()
    assert bench.said() == ["defect while closing an application's socket"]


@polled
async def test_nothing_is_told_after_the_end(bench: Bench) -> None:
    told: list[Event] = []
    event = Event(bench, told)
    protocol = Recorder()
    transport, _ = bench.pair(protocol)
    transport.abort()
    bench.poller.close()
    assert protocol.lost.is_set(), "what was let go before is closed"
    bench.poller.close()
    await bench.turns(3)
    assert not told
    bench.poller._watched.clear()
    event.bury()


@polled
async def test_closed_it_can_still_be_used_by_whoever_is_late(bench: Bench) -> None:
    """Callbacks that were scheduled before the poller was closed run after it."""
    told: list[Event] = []
    closing, late = Event(bench, told), Event(bench, told)
    closing.then = bench.poller.close
    while not told:
        await bench.turns(1)
    bench.poller.change(late.descriptor, EPOLLIN)
    with pytest.raises(OSError, match="stops"):
        bench.poller.add(late.descriptor, late, EPOLLIN)
    for event in (closing, late):
        bench.poller.doom(event.descriptor, event)
    await bench.turns(2)
    assert (closing.descriptor, late.descriptor) == (-1, -1)
