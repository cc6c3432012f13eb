"""Counts observations in one process, in fixed buckets. Pure; compiled, as it may run for each request."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from nodeagent.telemetry.samples import MICROS, Distribution, check_bounds

DURATION_BOUNDS: Final = (0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 300.0, 1800.0, 7200.0, 43200.0)
"""Seconds that a connection may last: five milliseconds to half a day."""


class Histogram:
    """Counts the observations of one series in one process. Hold on to it: ``observe`` looks nothing up."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """SampleError if the bounds are not finite and increasing."""
        self._bounds = tuple(bounds)
        check_bounds(self._bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum_micros = 0
        self.news = False
        """Whether there were observations since this was last set to False."""

    def observe(self, value: float) -> None:
        """Count one observation; a negative one counts as 0 (a clock was set back). ValueError or OverflowError if it
        is not finite.
        """
        counted = 0.0 if value < 0 else value
        micros = round(counted * MICROS)
        self._counts[bisect_left(self._bounds, counted)] += 1
        self._sum_micros += micros
        self.news = True

    @property
    def bounds(self) -> tuple[float, ...]:
        """The upper bounds of the buckets."""
        return self._bounds

    def distribution(self) -> Distribution:
        """The observations so far."""
        return Distribution(self._bounds, tuple(self._counts), self._sum_micros)
