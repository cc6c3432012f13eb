"""Adds up the samples of all workers, and what dead workers had counted. A counter or histogram never goes backwards.

Workers send what changed. A series that a worker does not mention (idle, expired in that worker, or the worker is dead)
keeps its last value here, until the workload that it names is gone and nothing has added to it for RETIRED_SECONDS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from nodeagent.telemetry.samples import CounterSample, Distribution, GaugeSample, HistogramSample, Sample, SampleError

RETIRED_SECONDS = 3600.0
"""How long the last value of a gone workload's series is still exported."""

SeriesKey = tuple[str, tuple[tuple[str, str], ...]]
Value = float | Distribution


class Aggregate:
    """The sum over workers. ``clock`` is monotonic seconds. Workers are named by anything unique to one process."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._workers: dict[int, dict[SeriesKey, Value]] = {}
        self._retired: dict[SeriesKey, Value] = {}
        self._changed: dict[SeriesKey, float] = {}
        """When the sum changed last."""
        self._kinds: dict[str, tuple[str, tuple[float, ...]]] = {}
        """Name -> kind and, of a histogram, bounds, as in the first sample of that name."""

    def update(self, worker: int, samples: Iterable[Sample]) -> None:
        """Take a worker's current values, all of them or those that changed; the others keep their former values.

        SampleError if a name comes with another kind or other buckets than before; earlier samples are in force then.
        """
        known = self._workers.setdefault(worker, {})
        now = self._clock()
        for sample in samples:
            self._check(sample)
            key = (sample.name, tuple(sorted(sample.labels.items())))
            former = known.get(key)
            value: Value = sample.value
            if former == value:
                continue
            if former is not None and not _continues(value, former):
                # the series expired in the worker and began anew: its former count stays counted
                self._retire(key, former)
            known[key] = value
            self._changed[key] = now

    def retire(self, worker: int) -> None:
        """The worker is dead: its counters and histograms stay counted, its gauges are gone."""
        for key, value in self._workers.pop(worker, {}).items():
            self._retire(key, value)

    def prune(self, known: Callable[[Mapping[str, str]], bool]) -> None:
        """Drop series that did not change for long and whose labels name something that is not ``known`` any more."""
        horizon = self._clock() - RETIRED_SECONDS
        for key, changed in list(self._changed.items()):
            if changed >= horizon or known(dict(key[1])):
                continue
            del self._changed[key]
            for samples in (self._retired, *self._workers.values()):
                samples.pop(key, None)

    def samples(self) -> tuple[Sample, ...]:
        """Every series, added up over the workers."""
        totals = dict(self._retired)
        for samples in self._workers.values():
            for key, value in samples.items():
                former = totals.get(key)
                totals[key] = value if former is None else _plus(former, value)
        return tuple([self._sample(name, dict(labels), value) for (name, labels), value in totals.items()])

    def _check(self, sample: Sample) -> None:
        bounds = sample.value.bounds if isinstance(sample, HistogramSample) else ()
        shape = (type(sample).__name__, bounds)
        known = self._kinds.setdefault(sample.name, shape)
        if known != shape:
            raise SampleError(f"{sample.name} was a {known[0]} {known[1]} before, and is a {shape[0]} {shape[1]} now")

    def _sample(self, name: str, labels: dict[str, str], value: Value) -> Sample:
        if isinstance(value, Distribution):
            return HistogramSample(name=name, labels=labels, value=value)
        if self._kinds[name][0] == CounterSample.__name__:
            return CounterSample(name=name, labels=labels, value=value)
        return GaugeSample(name=name, labels=labels, value=value)

    def _retire(self, key: SeriesKey, value: Value) -> None:
        if self._kinds[key[0]][0] != GaugeSample.__name__:
            former = self._retired.get(key)
            self._retired[key] = value if former is None else _plus(former, value)


def _plus(one: Value, other: Value) -> Value:
    if isinstance(one, Distribution):
        assert isinstance(other, Distribution), "checked when the sample came"
        return one.plus(other)
    assert not isinstance(other, Distribution), "checked when the sample came"
    return one + other


def _continues(value: Value, former: Value) -> bool:
    if isinstance(value, Distribution):
        assert isinstance(former, Distribution), "checked when the sample came"
        return value.continues(former)
    assert not isinstance(former, Distribution), "checked when the sample came"
    return value >= former
