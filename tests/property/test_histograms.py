"""The histograms of the workers, added up in whatever order, are the one histogram of all observations."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent import channel
from nodeagent.telemetry.aggregate import Aggregate
from nodeagent.telemetry.histogram import Histogram
from nodeagent.telemetry.samples import HistogramSample

values = st.floats(min_value=0, max_value=1e12, allow_nan=False)
bounds = st.lists(st.floats(min_value=0, max_value=1e9, allow_nan=False), min_size=1, max_size=12, unique=True).map(
    lambda found: tuple(sorted(found))
)
step = st.one_of(
    st.tuples(st.just("observe"), st.integers(0, 3), values),
    st.tuples(st.just("collect"), st.integers(0, 3), st.just(0.0)),
    st.tuples(st.just("die"), st.integers(0, 3), st.just(0.0)),
)


@settings(deadline=None)
@given(bounds, st.lists(step, max_size=60))
def test_merged_workers_equal_one_histogram(limits: tuple[float, ...], steps: list[tuple[str, int, float]]) -> None:
    """A worker that dies is collected once more before, and another takes its place, which counts from 0."""
    everything, aggregate = Histogram(limits), Aggregate(lambda: 0.0)
    workers = [(number, Histogram(limits)) for number in range(4)]
    numbers, total = itertools.count(4), 0

    def collect(index: int) -> None:
        number, histogram = workers[index]
        sample = HistogramSample(name="h", labels={}, value=histogram.distribution())
        (message,) = channel.Unpacker().feed(channel.pack(channel.collected(1, [sample])))
        assert isinstance(message, channel.Collected)
        aggregate.update(number, message.samples)

    for what, index, value in steps:
        if what == "observe":
            everything.observe(value)
            workers[index][1].observe(value)
            continue
        collect(index)
        if what == "die":
            aggregate.retire(workers[index][0])
            workers[index] = (next(numbers), Histogram(limits))
        (merged,) = aggregate.samples()
        assert isinstance(merged, HistogramSample)
        assert merged.value.count >= total, "it never goes backwards"
        total = merged.value.count
    for index in range(4):
        collect(index)
    (merged,) = aggregate.samples()
    assert merged.value == everything.distribution()
