"""Histograms with fixed buckets: counted in one process, added up over many without loss. Pure.

Everything that adds up is an integer, the sum of the observations included (in millionths), so the order of additions
does not matter: the merged histograms of the workers equal one histogram of all their observations.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from typing import Final

MICROS: Final = 1_000_000
"""Millionths in one unit of an observation."""
DURATION_BOUNDS: Final = (0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 300.0, 1800.0, 7200.0, 43200.0)
"""Seconds that a connection may last: five milliseconds to half a day."""


class SampleError(ValueError):
    """A metric sample contradicts its kind, or the former samples of its series: a defect of the agent."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """How many observations fell into which bucket. SampleError if the parts do not fit together."""

    bounds: tuple[float, ...]
    """The upper bound of each bucket but the last, inclusive as Prometheus's ``le``; finite and increasing."""
    counts: tuple[int, ...]
    """Observations of each bucket, not cumulative; the last holds what is above every bound."""
    sum_micros: int
    """The sum of all observations, in millionths."""

    def __post_init__(self) -> None:
        check_bounds(self.bounds)
        if len(self.counts) != len(self.bounds) + 1:
            raise SampleError(f"a histogram of {len(self.bounds)} bounds has {len(self.counts)} counts")
        if min(self.counts) < 0 or self.sum_micros < 0:
            raise SampleError("a histogram has a negative count or sum")

    @property
    def count(self) -> int:
        """The number of observations."""
        return sum(self.counts)

    @property
    def total(self) -> float:
        """The sum of the observations, in their unit."""
        return self.sum_micros / MICROS

    def plus(self, other: Distribution) -> Distribution:
        """Both together, exactly. SampleError if their buckets differ."""
        if self.bounds != other.bounds:
            raise SampleError(f"histograms with the bounds {self.bounds} and {other.bounds} cannot be added")
        counts = tuple([one + two for one, two in zip(self.counts, other.counts, strict=True)])
        return Distribution(self.bounds, counts, self.sum_micros + other.sum_micros)

    def continues(self, former: Distribution) -> bool:
        """Whether this may be ``former`` plus later observations; if not, counting began anew in between."""
        return self.sum_micros >= former.sum_micros and all(
            [new >= old for new, old in zip(self.counts, former.counts, strict=True)]
        )

    def cumulative(self) -> list[tuple[float, int]]:
        """Each finite bound, and the observations that are not above it."""
        found, running = [], 0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            running += count
            found.append((bound, running))
        return found


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


def check_bounds(bounds: tuple[float, ...]) -> None:
    """SampleError unless they are finite and increasing."""
    if not all([isfinite(bound) for bound in bounds]) or any([low >= high for low, high in pairwise(bounds)]):
        raise SampleError(f"the bounds of a histogram must be finite and increasing, not {bounds}")
