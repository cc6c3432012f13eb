from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import pytest

from control.wire.watch import Batch
from nodeagent.client.follow import Follower, UnusableBatchError
from nodeagent.client.session import Position, Session
from nodeagent.client.transport import ControlError, Transport
from tests.support.objects import delta, line, snapshot

Stream = list[bytes | Exception]


class FakeTransport:
    """Plays one stream after the other, then stays silent; keeps where each was resumed."""

    def __init__(self, *streams: Stream) -> None:
        self.streams = list(streams)
        self.positions: list[Position | None] = []
        self.contents: list[str] = []

    @asynccontextmanager
    async def watch(self, position: Position | None, content: str = "") -> AsyncIterator[AsyncIterator[bytes]]:
        self.positions.append(position)
        self.contents.append(content)
        yield self._play(self.streams.pop(0) if self.streams else None)

    async def _play(self, stream: Stream | None) -> AsyncIterator[bytes]:
        if stream is None:
            await asyncio.Event().wait()
        for item in stream or []:
            if isinstance(item, Exception):
                raise item
            yield item


def follow(
    transport: FakeTransport,
    sink: Callable[[Batch], None],
    connections: int,
    missing: Callable[[], tuple[str, ...]] = tuple,
    content: str = "",
) -> Follower:
    """Run until ``connections`` streams were opened."""

    async def run() -> Follower:
        async def give() -> Transport:
            return cast(Transport, transport)

        async def take(batch: Batch) -> None:
            sink(batch)

        async def held() -> str:
            return content

        follower = Follower(Session(lambda: 1.0), give, take, missing, held)
        task = asyncio.ensure_future(follower.run())
        while len(transport.positions) < connections:
            follower.hurry()  # no test waits for a backoff
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return follower

    return asyncio.run(asyncio.wait_for(run(), 20))


def test_batches_reach_the_sink_and_the_next_stream_resumes() -> None:
    transport = FakeTransport([line(snapshot(revision=1)), line(delta(revision=2))])
    taken: list[Batch] = []
    follow(transport, taken.append, 2)
    assert taken == [snapshot(revision=1), delta(revision=2)]
    assert transport.positions == [None, Position("history-1", 2)]


def test_whatever_goes_wrong_is_survived() -> None:
    transport = FakeTransport(
        [ControlError("refused")], [b"nonsense\n"], [RuntimeError("a defect")], [line(snapshot(revision=1))]
    )
    taken: list[Batch] = []
    follow(transport, taken.append, 5)
    assert taken == [snapshot(revision=1)]


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\n",
        b"[]\n",
        b'{"instance": "a"}\n',
        b'{"instance": "a", "revision": "1"}\n',
        b"\xff\xfe\n",
        b"[" * 99999 + b"\n",
    ],
)
def test_what_is_no_batch_drops_the_connection_and_asks_for_a_snapshot(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    transport = FakeTransport([line(snapshot(revision=1)), data, line(delta(revision=2))])
    taken: list[Batch] = []
    follow(transport, taken.append, 2)
    assert taken == [snapshot(revision=1)] and transport.positions == [None, None]
    assert "no batch" in caplog.text


def test_the_digest_of_what_is_held_goes_with_the_position() -> None:
    transport = FakeTransport([line(snapshot(revision=1))])
    follow(transport, lambda batch: None, 2, content="d1")
    assert transport.contents == ["", "d1"], "a first connection holds nothing that it could resume"


def test_a_batch_that_cannot_be_applied_asks_for_a_snapshot() -> None:
    def sink(batch: Batch) -> None:
        if batch.revision == 2:
            raise UnusableBatchError("no")

    transport = FakeTransport([line(snapshot(revision=1)), line(delta(revision=2))])
    follow(transport, sink, 2)
    assert transport.positions == [None, None]


def test_a_state_with_a_hole_is_replaced_by_a_snapshot_without_waiting_for_a_change() -> None:
    taken: list[Batch] = []
    transport = FakeTransport([line(snapshot(revision=1)), line(delta(revision=2))], [line(snapshot(revision=2))])
    follow(transport, taken.append, 3, lambda: ("policy shop/p",) if taken[-1].revision == 2 else ())
    assert transport.positions == [None, None, Position("history-1", 2)], "once, and then not again at once"


def test_connected_is_told_only_once_something_was_delivered() -> None:
    async def run() -> list[bool]:
        seen: list[bool] = []
        gate = asyncio.Event()

        class Gated(FakeTransport):
            async def _play(self, stream: Stream | None) -> AsyncIterator[bytes]:
                await gate.wait()
                yield line(snapshot())
                await asyncio.Event().wait()

        transport = Gated()
        applied = asyncio.Event()

        async def give() -> Transport:
            return cast(Transport, transport)

        async def take(batch: Batch) -> None:
            applied.set()

        follower = Follower(Session(lambda: 1.0), give, take)
        task = asyncio.ensure_future(follower.run())
        while not transport.positions:
            await asyncio.sleep(0)
        seen.append(follower.connected)
        gate.set()
        await applied.wait()
        await asyncio.sleep(0)
        seen.append(follower.connected)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return seen

    assert asyncio.run(asyncio.wait_for(run(), 20)) == [False, True]
