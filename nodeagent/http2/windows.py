"""How much may be in flight: receive windows that grow with use, under a budget for the whole worker.

A stream starts with a small window, so that thousands of idle or stalled streams cost little; a stream whose receiver
keeps up has its window doubled up to ``MAX_STREAM_WINDOW``, so that a long fat path is filled. What all streams of a
worker may be granted beyond their first window is bounded by ``WindowBudget``.
The connection window is replenished on receipt: what is not read yet is bounded by the streams' windows, so one slow
stream never takes its neighbours' share (peers with equal stream and connection windows deadlock there).
"""

from __future__ import annotations

from typing import Final

FIRST_STREAM_WINDOW: Final = 256 * 1024
MAX_STREAM_WINDOW: Final = 4 * 1024 * 1024
CONNECTION_WINDOW: Final = 16 * 1024 * 1024
DEFAULT_BUDGET: Final = 512 * 1024 * 1024


class WindowBudget:
    """What a worker may grant its streams beyond their first windows, in octets."""

    def __init__(self, octets: int = DEFAULT_BUDGET) -> None:
        self._left = octets

    @property
    def left(self) -> int:
        """Octets that may still be granted."""
        return self._left

    def take(self, octets: int) -> bool:
        """Reserve the octets if there are so many."""
        if octets > self._left:
            return False
        self._left -= octets
        return True

    def give_back(self, octets: int) -> None:
        """Return what a stream that ended had reserved."""
        self._left += octets


class ReceiveWindow:
    """The window that we grant a peer on one stream.

    ``received`` counts what arrives; ``consumed`` what its reader has taken, and returns the increment to announce
    (often 0).
    """

    __slots__ = ("_available", "_budget", "_owed", "_reserved", "_size")

    def __init__(self, budget: WindowBudget) -> None:
        self._budget = budget
        self._size = FIRST_STREAM_WINDOW
        self._available = FIRST_STREAM_WINDOW  # what the peer may still send
        self._owed = 0  # consumed, but not announced
        self._reserved = 0

    @property
    def size(self) -> int:
        """Most octets that can be unread at one time."""
        return self._size

    def received(self, octets: int) -> bool:
        """Count octets in; False if the peer sent more than it was granted."""
        self._available -= octets
        return self._available >= 0

    def consumed(self, octets: int, *, keeps_up: bool) -> int:
        """Count octets out. ``keeps_up`` says that the reader never had to wait; such a stream's window grows."""
        self._owed += octets
        if self._owed * 2 < self._size:
            return 0
        increment, self._owed = self._owed, 0
        if keeps_up and self._size < MAX_STREAM_WINDOW:
            growth = min(self._size, MAX_STREAM_WINDOW - self._size)
            if self._budget.take(growth):
                self._size += growth
                self._reserved += growth
                increment += growth
        self._available += increment
        return increment

    def close(self) -> None:
        """Give the reserved octets back; once, when the stream ends."""
        self._budget.give_back(self._reserved)
        self._reserved = 0
