"""Metric samples: the value of one series at one time, typed by its kind. Pure.

Workers send samples to the manager; ``Aggregate`` adds up those of the same series, ``exposition`` writes the sums for
scrapers. The kind of a sample is its class, and its name keeps Prometheus's rules for that kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from nodeagent.telemetry.histogram import Distribution, SampleError

COUNTER_SUFFIX: Final = "_total"
RESERVED_SUFFIXES: Final = (COUNTER_SUFFIX, "_bucket", "_sum", "_count")
"""What the exposition of a counter or a histogram appends to its name."""


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
