"""A watcher is fed in order, and cut off rather than waited for."""

from __future__ import annotations

import asyncio

import pytest

from control.watch.session import MAX_QUEUE, Session, SlowWatcherError


def test_in_order_then_a_time_out() -> None:
    async def story() -> None:
        session = Session("node-a", lambda: None)
        session.offer(1, b"1")
        session.offer(2, b"2")
        assert [await session.next(0), await session.next(0), await session.next(0)] == [(1, b"1"), (2, b"2"), None]
        assert not session.closed

    asyncio.run(story())


def test_waiting_ends_with_an_offer_or_a_close() -> None:
    async def story() -> None:
        session = Session("node-a", lambda: None)
        loop = asyncio.get_running_loop()
        loop.call_soon(session.offer, 1, b"1")
        assert await session.next(60) == (1, b"1")
        loop.call_soon(session.close)
        assert await session.next(60) is None
        assert session.closed
        session.offer(2, b"2")
        assert await session.next(60) is None

    asyncio.run(story())


def test_one_batch_too_many_cuts_it_off() -> None:
    async def story() -> None:
        cut: list[str] = []
        session = Session("node-a", lambda: cut.append("cut"))
        for number in range(MAX_QUEUE):
            session.offer(number, b"")
        assert not cut
        session.offer(MAX_QUEUE, b"")
        session.offer(MAX_QUEUE + 1, b"")
        assert cut == ["cut"]
        assert session.closed
        with pytest.raises(SlowWatcherError, match="node-a"):
            await session.next(60)

    asyncio.run(story())
