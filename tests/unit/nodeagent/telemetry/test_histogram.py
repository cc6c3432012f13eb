from __future__ import annotations

import math

import pytest

from nodeagent.telemetry.histogram import DURATION_BOUNDS, Histogram
from nodeagent.telemetry.samples import CounterSample, Distribution, GaugeSample, HistogramSample, SampleError


def test_a_bound_belongs_to_its_bucket() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.0, 1.0, 1.5, 2.0, 2.1, -3.0):
        histogram.observe(value)
    told = histogram.distribution()
    assert told == Distribution((1.0, 2.0), (3, 2, 1), 6_600_000)
    assert (told.count, told.total, told.cumulative()) == (6, 6.6, [(1.0, 3), (2.0, 5)])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_observation_that_is_no_number_counts_nowhere(value: float) -> None:
    histogram = Histogram((1.0,))
    with pytest.raises((ValueError, OverflowError)):
        histogram.observe(value)
    assert histogram.distribution() == Distribution((1.0,), (0, 0), 0)


@pytest.mark.parametrize("bounds", [(2.0, 1.0), (1.0, 1.0), (1.0, math.inf), (math.nan,)])
def test_bounds_are_finite_and_increase(bounds: tuple[float, ...]) -> None:
    with pytest.raises(SampleError, match="finite and increasing"):
        Histogram(bounds)


@pytest.mark.parametrize("parts", [((1.0,), (1,), 0), ((1.0,), (1, -1), 0), ((1.0,), (1, 1), -1)])
def test_parts_that_do_not_fit(parts: tuple[tuple[float, ...], tuple[int, ...], int]) -> None:
    with pytest.raises(SampleError):
        Distribution(*parts)


def test_other_buckets_are_not_added() -> None:
    with pytest.raises(SampleError, match="cannot be added"):
        Distribution((1.0,), (1, 1), 0).plus(Distribution((2.0,), (1, 1), 0))


def test_names_keep_the_rules_of_their_kind() -> None:
    value = Histogram(DURATION_BOUNDS).distribution()
    with pytest.raises(SampleError):
        CounterSample(name="x", labels={}, value=1)
    for name in ("x_total", "x_bucket", "x_sum", "x_count"):
        with pytest.raises(SampleError):
            GaugeSample(name=name, labels={}, value=1)
        with pytest.raises(SampleError):
            HistogramSample(name=name, labels={}, value=value)
