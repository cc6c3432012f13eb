"""Connections whose peers have proved nothing: what they cost, who gives way, and who waits for a turn."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from control.wire.address import SocketAddress
from nodeagent.limits.excess import Excess
from nodeagent.limits.settings import Limits
from nodeagent.net.accepting import listen_for_tunnels
from nodeagent.net.tasks import Tasks
from nodeagent.net.threshold import GRACE_SECONDS, SILENT_SECONDS, Arrival, Threshold
from nodeagent.reasons import Reason
from tests.support.polled import Bench, polled
from tests.support.stories import eventually


class Shaker(asyncio.Protocol):
    """A handshake that lasts until the test says."""

    def __init__(self, arrival: Arrival) -> None:
        self.arrival = arrival
        self.data = b""
        self.why = ""
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.arrival.over()

    def give_way(self, why: str) -> None:
        self.why = why
        self.transport.abort()


class Door:
    """A listener with a threshold, and who came."""

    def __init__(self, bench: Bench, limits: Limits) -> None:
        self.bench = bench
        self.excess = Excess(limits, bench.loop.time)
        self.turned: list[tuple[Reason, str]] = []
        self.shakers: list[Shaker] = []
        self.tasks = Tasks(bench.loop)
        self.threshold = Threshold(
            bench.poller, self.tasks, self.excess, lambda _r, _l, reason, why: self.turned.append((reason, why))
        )
        self.listener = listen_for_tunnels(bench.poller, self.threshold, self._made, SocketAddress(bench.listens, 0))
        self.address = SocketAddress(bench.connects, self.listener.sockets[0].getsockname()[1])

    def _made(self, arrival: Arrival) -> Shaker:
        self.shakers.append(Shaker(arrival))
        return self.shakers[-1]

    async def connect(self, says: bytes = b"") -> socket.socket:
        client = self.bench.client(self.address)
        if says:
            await self.bench.loop.sock_sendall(client, says)
        return client


@asynccontextmanager
async def door(bench: Bench, **limits: int) -> AsyncIterator[Door]:
    opened = Door(bench, Limits(**limits))
    try:
        yield opened
    finally:
        opened.listener.close()
        opened.threshold.close()
        for shaker in opened.shakers:
            if shaker.transport is not None:
                shaker.transport.abort()
        await eventually(lambda: not len(opened.threshold) and not len(opened.tasks))


async def ended(bench: Bench, client: socket.socket) -> bool:
    try:
        return await bench.read_to_end(client) == b""
    except ConnectionResetError:
        return True


@polled
async def test_a_connection_gets_a_protocol_at_its_first_octet(bench: Bench) -> None:
    async with door(bench) as hall:
        client = await hall.connect()
        await eventually(lambda: len(hall.threshold) == 1)
        assert hall.shakers == []
        await bench.loop.sock_sendall(client, b"hello")
        await eventually(lambda: hall.shakers and hall.shakers[0].data == b"hello")
        hall.shakers[0].arrival.over()
        assert len(hall.threshold) == 0
        assert hall.turned == []


@polled
async def test_the_oldest_silent_one_of_a_peer_gives_way(bench: Bench) -> None:
    async with door(bench, unproved_per_peer=4) as hall:
        silent = [await hall.connect() for _ in range(4)]
        await eventually(lambda: len(hall.threshold) == 4)
        late = await hall.connect(b"x")
        assert await ended(bench, silent[0])
        await eventually(lambda: hall.shakers and hall.shakers[0].data == b"x")
        assert len(hall.threshold) == 4
        ((reason, why),) = hall.turned
        assert reason is Reason.OVERLOADED and "limits.unproved_per_peer: 4" in why
        assert list(hall.excess.counts.values()) == [1]
        late.close()


@polled
async def test_who_says_nothing_is_turned_away_in_time(bench: Bench) -> None:
    async with door(bench) as hall:
        client = await hall.connect()
        await eventually(lambda: len(hall.threshold) == 1)
        hall.threshold.tick(bench.loop.time() + SILENT_SECONDS - 1)
        assert len(hall.threshold) == 1
        hall.threshold.tick(bench.loop.time() + SILENT_SECONDS + 1)
        assert await ended(bench, client)
        assert "no TLS handshake within" in hall.turned[0][1]


@polled
async def test_who_leaves_without_a_word_is_told_of(bench: Bench) -> None:
    async with door(bench) as hall:
        (await hall.connect()).close()
        await eventually(lambda: bool(hall.turned))
        assert hall.turned[0][0] is Reason.TLS_FAILURE and len(hall.threshold) == 0


@polled
async def test_handshakes_of_one_peer_wait_for_each_other(bench: Bench) -> None:
    async with door(bench, handshakes_at_once_per_peer=2) as hall:
        for _ in range(3):
            await hall.connect(b"x")
        await eventually(lambda: len(hall.shakers) == 2 and all(s.data for s in hall.shakers))
        assert len(hall.threshold) == 3
        hall.shakers[0].arrival.over()
        await eventually(lambda: len(hall.shakers) == 3 and bool(hall.shakers[2].data))
        assert hall.turned == [] and hall.excess.counts == {}


@polled
async def test_a_handshake_that_takes_long_gives_way_to_one_that_waits(bench: Bench) -> None:
    async with door(bench, handshakes_at_once_per_peer=1) as hall:
        await hall.connect(b"x")
        await eventually(lambda: hall.shakers and hall.shakers[0].data == b"x")
        hall.shakers[0].arrival.began -= GRACE_SECONDS
        await hall.connect(b"y")
        await eventually(lambda: len(hall.shakers) == 2 and hall.shakers[1].data == b"y")
        assert "handshakes_at_once_per_peer: 1" in hall.shakers[0].why


@polled
async def test_handshakes_in_a_row_are_bounded_and_none_is_lost(bench: Bench) -> None:
    async with door(bench, handshakes_per_peer=1) as hall:
        for _ in range(3):
            await hall.connect(b"x")
        await eventually(lambda: len(hall.shakers) == 2 and len(hall.threshold._waiting) == 1)
        hall.threshold._rates._spent.clear()  # time passes
        await eventually(lambda: len(hall.shakers) == 3 and all(s.data for s in hall.shakers))
        assert hall.turned == []
