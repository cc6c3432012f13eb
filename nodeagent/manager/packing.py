"""How many workers take new connections: as few as the load needs.

A wake-up costs more than a small message. The more flows one worker serves, the more of them each turn of its loop
finds ready, and the more of what they send to another node goes out in one record and one system call. So new
connections go to one worker while one is enough, to more as processor time or open connections grow, and to all when
all are needed. Workers whose turn has gone keep what they have.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Final

from nodeagent.channel import Load

FLOWS_PER_WORKER: Final = 128
"""Open connections that one worker is given before another is used: they may all become busy, and cannot move."""
BUSY_SHARE: Final = 0.6
"""Share of a processor that a worker may use before another is used."""
SHRINK_AFTER_SECONDS: Final = 30.0
"""How long fewer must have been enough before fewer are used."""
SHORTEST_SAMPLE_SECONDS: Final = 0.5
"""Processor time over less than this tells nothing."""


class Packing:
    """The decision, from what workers say over time. Pure: the clock is passed in."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.active = 1
        self._seen: dict[int, tuple[float, float, float]] = {}  # worker -> when, its CPU seconds, cores used
        self._enough_since: float | None = None

    def decide(self, loads: Sequence[tuple[int, Load]], now: float) -> int:
        """How many workers take new connections from now on. ``loads`` are (worker's number, what it said)."""
        alive = {number for number, _ in loads}
        self._seen = {number: seen for number, seen in self._seen.items() if number in alive}
        flows = sum(load.flows for _, load in loads)
        cores = sum(self._cores(number, load.cpu_seconds, now) for number, load in loads)
        wanted = max(1, ceil(flows / FLOWS_PER_WORKER), ceil(cores / BUSY_SHARE))
        wanted = min(wanted, self.workers)
        if wanted >= self.active:
            self._enough_since = None
            self.active = wanted
        elif self._enough_since is None:
            self._enough_since = now
        elif now - self._enough_since >= SHRINK_AFTER_SECONDS:
            self._enough_since = None
            self.active = wanted
        return self.active

    def _cores(self, number: int, cpu_seconds: float, now: float) -> float:
        """Processors that the worker used lately; 0 for one that is new."""
        then, before, cores = self._seen.get(number, (now, cpu_seconds, 0.0))
        if number not in self._seen or cpu_seconds < before:  # new, or another process in its place
            self._seen[number] = (now, cpu_seconds, 0.0)
            return 0.0
        if now - then >= SHORTEST_SAMPLE_SECONDS:
            cores = (cpu_seconds - before) / (now - then)
            self._seen[number] = (now, cpu_seconds, cores)
        return cores
