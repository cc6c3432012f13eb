"""Long work in slices between the turns of an event loop.

Connections never wait for the size of the mesh.
Work is an iterator: each step of it is short (well below ``STEP_SECONDS``), and what it leaves between two steps is
consistent. ``Slices`` runs work in a loop of callbacks, ``in_slices`` in a coroutine. Imported by the manager and the
worker; imports ``nodeagent.steps``.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from nodeagent.steps import Steps

SLICE_SECONDS: Final = 0.005
"""The longest slice: what a connection may wait for work that is not its own."""
STEP_SECONDS: Final = 0.001
"""What a step may take: no step begins that might end after the slice."""

T = TypeVar("T")
Clock = Callable[[], float]


class Slices:
    """Runs pieces of work in the order in which they were put: a slice at once if nothing waits, the rest later."""

    def __init__(self, call_soon: Callable[[Callable[[], None]], object], clock: Clock = time.monotonic) -> None:
        """``call_soon`` runs a function in the next turn of the loop; ``clock`` is monotonic, in seconds."""
        self._call_soon = call_soon
        self._clock = clock
        self._waiting: deque[Iterator[None]] = deque()
        self._idle: deque[Iterator[None]] = deque()
        self._running = False
        self.on_error: Callable[[Exception], None] | None = None
        """Called if work raises; everything that waits is dropped then."""

    @property
    def busy(self) -> bool:
        """Whether work waits that is not ``later``."""
        return bool(self._waiting)

    def put(self, work: Iterator[None]) -> None:
        """Run this after what waits already."""
        self._waiting.append(work)
        self._begin()

    def later(self, work: Iterator[None]) -> None:
        """Run this whenever nothing else waits: it may be overtaken."""
        self._idle.append(work)
        self._begin()

    def _begin(self) -> None:
        if not self._running:
            self._running = True
            self._slice()

    def _slice(self) -> None:
        begin = self._clock()
        end = begin + SLICE_SECONDS - STEP_SECONDS
        try:
            while queue := self._waiting or self._idle:
                for _ in queue[0]:
                    if self._clock() >= end:
                        break
                else:
                    queue.popleft()
                if self._clock() >= end:
                    break
        except Exception as error:
            self._waiting.clear()
            self._idle.clear()
            self._running = False
            if self.on_error is None:
                raise
            self.on_error(error)
            return
        # after a long slice, work that is put in the same turn waits for the next one
        if self._waiting or self._idle or self._clock() - begin >= STEP_SECONDS:
            self._call_soon(self._slice)
        else:
            self._running = False


async def in_slices(work: Steps[T], clock: Clock = time.monotonic) -> T:
    """Run the work to its end, a slice in each turn of the loop; what it returns."""
    end = clock() + SLICE_SECONDS - STEP_SECONDS
    while True:
        try:
            next(work)
        except StopIteration as finished:
            result: T = finished.value
            return result
        if clock() >= end:
            await asyncio.sleep(0)
            end = clock() + SLICE_SECONDS - STEP_SECONDS
