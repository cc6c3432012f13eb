from __future__ import annotations

import pytest

from nodeagent.telemetry.aggregate import RETIRED_SECONDS, Aggregate
from nodeagent.telemetry.samples import CounterSample, Distribution, GaugeSample, HistogramSample, Sample, SampleError


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def sample(value: float, name: str = "x_total", **labels: str) -> Sample:
    return (CounterSample if name.endswith("_total") else GaugeSample)(name=name, labels=labels, value=value)


def histogram(*counts: int, total: int = 0, bounds: tuple[float, ...] = (1.0, 2.0), **labels: str) -> HistogramSample:
    return HistogramSample(name="h", labels=labels, value=Distribution(bounds, counts, total))


def value(aggregate: Aggregate, name: str = "x_total", **labels: str) -> float | Distribution | None:
    found = [s.value for s in aggregate.samples() if s.name == name and s.labels == labels]
    return found[0] if found else None


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def aggregate(clock: Clock) -> Aggregate:
    return Aggregate(clock)


def test_workers_are_summed(aggregate: Aggregate) -> None:
    aggregate.update(1, [sample(2, a="b")])
    aggregate.update(2, [sample(3, a="b")])
    assert value(aggregate, a="b") == 5


def test_a_counter_does_not_go_back_when_its_worker_dies_and_starts_again(aggregate: Aggregate) -> None:
    aggregate.update(1, [sample(7), sample(4, "gauge")])
    aggregate.retire(1)
    assert value(aggregate) == 7
    assert value(aggregate, "gauge") is None
    aggregate.update(2, [sample(1)])
    assert value(aggregate) == 8


def test_what_a_worker_does_not_mention_is_as_it_was(aggregate: Aggregate) -> None:
    aggregate.update(1, [sample(7, w="x"), sample(2, "gauge")])
    aggregate.update(1, [])
    assert (value(aggregate, w="x"), value(aggregate, "gauge")) == (7, 2)


def test_a_series_that_expired_in_a_worker_and_began_anew_goes_on(aggregate: Aggregate) -> None:
    aggregate.update(1, [sample(7, w="x"), sample(5, "gauge")])
    aggregate.update(1, [sample(1, w="x"), sample(1, "gauge")])
    assert (value(aggregate, w="x"), value(aggregate, "gauge")) == (8, 1)


@pytest.mark.parametrize("dead", [True, False])
def test_idle_series_of_the_unknown_are_dropped_in_the_end(aggregate: Aggregate, clock: Clock, dead: bool) -> None:
    aggregate.update(1, [sample(7, w="gone"), sample(7, w="here")])
    if dead:
        aggregate.retire(1)
    aggregate.prune(lambda labels: labels["w"] == "here")
    assert value(aggregate, w="gone") == 7, "not before it was scraped for a while"
    clock.now = RETIRED_SECONDS + 1
    aggregate.prune(lambda labels: labels["w"] == "here")
    assert value(aggregate, w="gone") is None
    assert value(aggregate, w="here") == 7


def test_histograms_are_summed_and_stay_when_their_worker_dies(aggregate: Aggregate) -> None:
    aggregate.update(1, [histogram(1, 2, 0, total=3, a="b")])
    aggregate.update(2, [histogram(0, 1, 4, total=20, a="b")])
    assert value(aggregate, "h", a="b") == Distribution((1.0, 2.0), (1, 3, 4), 23)
    aggregate.retire(1)
    aggregate.update(3, [histogram(1, 0, 0, total=1, a="b")])
    assert value(aggregate, "h", a="b") == Distribution((1.0, 2.0), (2, 3, 4), 24)


@pytest.mark.parametrize("anew", [histogram(0, 0, 1, total=99), histogram(5, 5, 5, total=1)])
def test_a_histogram_that_began_anew_goes_on(aggregate: Aggregate, anew: HistogramSample) -> None:
    aggregate.update(1, [histogram(1, 2, 0, total=3)])
    aggregate.update(1, [anew])
    assert value(aggregate, "h") == Distribution((1.0, 2.0), (1, 2, 0), 3).plus(anew.value)


@pytest.mark.parametrize(
    "odd",
    [
        GaugeSample(name="h", labels={}, value=1),
        histogram(1, 1, bounds=(1.0,)),
        histogram(1, 1, 1, bounds=(1.0, 3.0)),
    ],
)
def test_a_name_keeps_its_kind_and_its_buckets(aggregate: Aggregate, odd: Sample) -> None:
    aggregate.update(1, [histogram(1, 0, 0)])
    with pytest.raises(SampleError, match="h was a HistogramSample"):
        aggregate.update(2, [odd])
    assert value(aggregate, "h") == Distribution((1.0, 2.0), (1, 0, 0), 0)
