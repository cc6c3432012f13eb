"""One watching agent: a bounded queue of encoded batches between the hub and a response."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

MAX_QUEUE = 64
"""Batches that a watcher may lag behind; one more and it is disconnected, to come back and resume."""


class SlowWatcherError(Exception):
    """The watcher does not read as fast as the mesh changes."""


class Session:
    """Filled by the hub, drained by one response. Belongs to the event loop's thread."""

    def __init__(self, node: str, on_overflow: Callable[[], None]) -> None:
        """``on_overflow`` must cut the connection off, since whoever drains the queue may be stuck in writing."""
        self.node = node
        self._on_overflow = on_overflow
        self._queue: deque[tuple[int, bytes]] = deque()
        self._wake = asyncio.Event()
        self._closed = False
        self._overflown = False

    @property
    def closed(self) -> bool:
        """Nothing more will come."""
        return self._closed

    def offer(self, revision: int, line: bytes) -> None:
        """Queue a batch; a watcher that is too far behind is closed instead."""
        if self._closed:
            return
        if len(self._queue) >= MAX_QUEUE:
            self._overflown = True
            self.close()
            self._on_overflow()
            return
        self._queue.append((revision, line))
        self._wake.set()

    def close(self) -> None:
        """End the stream; what is queued is dropped: the agent resumes from what it has applied."""
        self._closed = True
        self._queue.clear()
        self._wake.set()

    async def next(self, seconds: float) -> tuple[int, bytes] | None:
        """(revision, the batch as a line), or None when time is up or the session is closed (see ``closed``)."""
        if not self._queue and not self._closed:
            self._wake.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._wake.wait()
            except TimeoutError:
                return None
        if self._overflown:
            raise SlowWatcherError(f"the watcher of node {self.node} is {MAX_QUEUE} batches behind")
        return self._queue.popleft() if self._queue else None
