"""Metric samples: the value of one series at one time, typed by its kind. Pure.

Workers send samples to the manager; ``Aggregate`` adds up those of the same series, ``exposition`` writes the sums for
scrapers. The kind of a sample is its class, and its name keeps Prometheus's rules for that kind.

Everything of a histogram that adds up is an integer, the sum of the observations included (in millionths), so the order
of additions does not matter: the merged histograms of the workers equal one histogram of all their observations.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from typing import Final

COUNTER_SUFFIX: Final = "_total"
RESERVED_SUFFIXES: Final = (COUNTER_SUFFIX, "_bucket", "_sum", "_count")
"""What the exposition of a counter or a histogram appends to its name."""
MICROS: Final = 1_000_000
"""Millionths in one unit of an observation."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterSample:
    """A count that only grows while its process lives. SampleError unless the name ends in ``_total``."""

    name: str
    labels: dict[str, str]
    value: float

    def __post_init__(self) -> None:
        if not self.name.endswith(COUNTER_SUFFIX):
            raise SampleError(f"the name of a counter must end in {COUNTER_SUFFIX}, not {self.name!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GaugeSample:
    """A value that rises and falls. SampleError if the name ends as a counter's or a histogram's series does."""

    name: str
    labels: dict[str, str]
    value: float

    def __post_init__(self) -> None:
        _check_plain(self.name, "gauge")


@dataclass(frozen=True, slots=True, kw_only=True)
class HistogramSample:
    """Observations by bucket; they only grow while the process lives. SampleError as for ``GaugeSample``."""

    name: str
    labels: dict[str, str]
    value: Distribution

    def __post_init__(self) -> None:
        _check_plain(self.name, "histogram")


NumberSample = CounterSample | GaugeSample
Sample = CounterSample | GaugeSample | HistogramSample


def _check_plain(name: str, kind: str) -> None:
    if name.endswith(RESERVED_SUFFIXES):
        raise SampleError(f"the name of a {kind} must not end in {', '.join(RESERVED_SUFFIXES)}: {name!r}")


def check_bounds(bounds: tuple[float, ...]) -> None:
    """SampleError unless they are finite and increasing."""
    if not all([isfinite(bound) for bound in bounds]) or any([low >= high for low, high in pairwise(bounds)]):
        raise SampleError(f"the bounds of a histogram must be finite and increasing, not {bounds}")
