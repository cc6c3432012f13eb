"""The metrics of one worker: Istio's TCP series counted from FlowRecords, durations, errors by reason. One thread.

``opened`` once the connection is established end to end; ``closed`` once for every connection, established or not;
``report_live`` now and then for each open one, so that the bytes of a long-lived connection are counted while it
lives. By Istio's convention ``sent`` counts the *response*: bytes from the server to the client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from control.wire.discovery import Service, Workload
from nodeagent.reasons import Reason
from nodeagent.telemetry.flow import FlowRecord
from nodeagent.telemetry.histogram import DURATION_BOUNDS, Histogram
from nodeagent.telemetry.labels import NO_FLAG, label_set
from nodeagent.telemetry.samples import CounterSample, GaugeSample, HistogramSample, Sample

MAX_SERIES = 5_000
"""Label sets held at once. Connections of further ones are counted in ``nodemesh_metric_series_dropped_total`` only."""
EXPIRY_SECONDS = 3600.0
"""A series is dropped this long after its last use if one of its workloads is gone: enough for the last scrapes."""

OPENED = "istio_tcp_connections_opened_total"
CLOSED = "istio_tcp_connections_closed_total"
FAILED = "istio_tcp_connections_failed_total"
SENT = "istio_tcp_sent_bytes_total"
RECEIVED = "istio_tcp_received_bytes_total"
ERRORS = "nodemesh_errors_total"
DROPPED_SERIES = "nodemesh_metric_series_dropped_total"
DURATION = "nodemesh_connection_duration_seconds"

Key = tuple[str, str, str, str, str, str, str, str]
SeriesName = tuple[str, tuple[tuple[str, str], ...]]
"""A metric's name and its labels, sorted."""


@dataclass(slots=True)
class _Series:
    """One label set and its counts. ``closed`` and ``failed`` are by ``response_flags``."""

    labels: dict[str, str]
    source: Workload | None
    destination: Workload | None
    service: Service | None
    used: float
    opened: int = 0
    sent: int = 0
    received: int = 0
    live: int = 0
    news: bool = True
    """Whether something was counted since ``news`` last returned the series."""
    closed: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)

    def describes(self, record: FlowRecord) -> bool:
        """Whether the label set is that of the record's objects; not if one changed under its uid (labels edited)."""
        return (
            self.source is record.source and self.destination is record.destination and self.service is record.service
        )


@dataclass(slots=True)
class _Live:
    """What of an open connection has been counted."""

    series: _Series | None
    sent: int = 0
    received: int = 0


class FlowMetrics:
    """The series of one worker. ``clock`` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float], max_series: int = MAX_SERIES) -> None:
        self._clock = clock
        self._max_series = max_series
        self._cache: dict[Key, _Series] = {}
        self._series: dict[tuple[str, ...], _Series] = {}
        self._live: dict[tuple[int, str], _Live] = {}
        self._errors: dict[Reason, int] = {}
        self._gone: set[str] = set()
        self._gauges: dict[SeriesName, float] = {}
        self._counters: dict[SeriesName, float] = {}
        self._histograms: dict[SeriesName, Histogram] = {}
        self._durations: dict[str, Histogram] = {}
        self._dropped = 0

    def opened(self, record: FlowRecord) -> None:
        """Count a connection that is established: both ends are connected and policy permits it."""
        series = self._series_of(record)
        self._live[record.flow_id, record.reporter] = _Live(series)
        if series is not None:
            series.news = True
            series.opened += 1
            series.live += 1

    def report_live(self, record: FlowRecord) -> None:
        """Count the bytes that an open connection carried since it was last counted."""
        live = self._live.get((record.flow_id, record.reporter))
        if live is not None:
            self._count_bytes(live, record)

    def closed(self, record: FlowRecord) -> None:
        """Count the end of a connection; as failed if it was never ``opened``. ``response_flags`` says why."""
        if record.reason is not Reason.OK:
            self.error(record.reason)
        live = self._live.pop((record.flow_id, record.reporter), None)
        if live is None:
            series = self._series_of(record)
            if series is not None:
                series.news = True
                series.failed[record.reason.flag] = series.failed.get(record.reason.flag, 0) + 1
            return
        self._count_bytes(live, record)
        if record.ended is not None:
            self._duration(record.reporter).observe(record.ended - record.started)
        if live.series is not None:
            series, flag = live.series, record.reason.flag
            series.news = True
            series.used = self._clock()
            series.live -= 1
            series.closed[flag] = series.closed.get(flag, 0) + 1

    def error(self, reason: Reason) -> None:
        """Count a reason that belongs to no connection, such as a tunnel whose handshake failed."""
        self._errors[reason] = self._errors.get(reason, 0) + 1

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge; the manager adds it up over workers."""
        self._gauges[name, tuple(sorted(labels.items()))] = value

    def counter(self, name: str, value: float, **labels: str) -> None:
        """Export a count that somebody else keeps and that only grows; its name must end in ``_total``."""
        self._counters[name, tuple(sorted(labels.items()))] = value

    def histogram(self, name: str, bounds: tuple[float, ...], **labels: str) -> Histogram:
        """The histogram of these labels, to ``observe`` into; all workers must give a name the same bounds.

        At most ``max_series`` are held. Observations of further ones go into a histogram that nobody exports, and each
        request for one counts in ``nodemesh_metric_series_dropped_total``.
        """
        key = name, tuple(sorted(labels.items()))
        found = self._histograms.get(key)
        if found is None:
            found = Histogram(bounds)
            if len(self._histograms) >= self._max_series:
                self._dropped += 1
                return found
            self._histograms[key] = found
        return found

    def forget(self, uids: Iterable[str]) -> None:
        """Let the series of these workloads and services, which are gone, expire after EXPIRY_SECONDS without use."""
        self._gone.update(uids)

    def samples(self) -> tuple[Sample, ...]:
        """Every series as it is now."""
        self._expire()
        return self._samples(self._series.values(), self._histograms)

    def news(self) -> tuple[Sample, ...]:
        """The series that changed since the last call: few, where most pairs of workloads are idle."""
        self._expire()
        changed = [series for series in self._series.values() if series.news]
        for series in changed:
            series.news = False
        observed = {key: histogram for key, histogram in self._histograms.items() if histogram.news}
        for histogram in observed.values():
            histogram.news = False
        return self._samples(changed, observed)

    def _samples(self, chosen: Iterable[_Series], histograms: dict[SeriesName, Histogram]) -> tuple[Sample, ...]:
        result: list[Sample] = []
        for series in chosen:
            result += _samples_of(series)
        result += [
            CounterSample(name=ERRORS, labels={"reason": reason.code, "fault": reason.value.fault.value}, value=count)
            for reason, count in self._errors.items()
        ]
        result += [GaugeSample(name=name, labels=dict(labels), value=v) for (name, labels), v in self._gauges.items()]
        result += [
            CounterSample(name=name, labels=dict(labels), value=v) for (name, labels), v in self._counters.items()
        ]
        result += [
            HistogramSample(name=name, labels=dict(labels), value=histogram.distribution())
            for (name, labels), histogram in histograms.items()
        ]
        result.append(CounterSample(name=DROPPED_SERIES, labels={}, value=self._dropped))
        return tuple(result)

    def _duration(self, reporter: str) -> Histogram:
        found = self._durations.get(reporter)
        if found is None:
            found = self._durations[reporter] = self.histogram(DURATION, DURATION_BOUNDS, reporter=reporter)
        return found

    def _count_bytes(self, live: _Live, record: FlowRecord) -> None:
        if live.series is not None and (record.bytes_received, record.bytes_sent) != (live.received, live.sent):
            live.series.news = True
            live.series.sent += record.bytes_received - live.received
            live.series.received += record.bytes_sent - live.sent
            live.series.used = self._clock()
        live.sent, live.received = record.bytes_sent, record.bytes_received

    def _series_of(self, record: FlowRecord) -> _Series | None:
        key = _key(record)
        series = self._cache.get(key)
        if series is None or not series.describes(record):
            series = self._add(key, record)
        if series is not None:
            series.used = self._clock()
        return series

    def _add(self, key: Key, record: FlowRecord) -> _Series | None:
        """The series of a record that is not in the cache; objects that changed back share the series they had."""
        labels = label_set(record)
        identity = tuple(labels.values())
        series = self._series.get(identity)
        if series is None:
            if len(self._series) >= self._max_series:
                self._dropped += 1
                return None
            series = _Series(labels, record.source, record.destination, record.service, self._clock())
            self._series[identity] = series
        series.source, series.destination, series.service = record.source, record.destination, record.service
        if len(self._cache) >= 2 * self._max_series:  # uids come and go under the same labels
            self._cache.clear()
        self._cache[key] = series
        return series

    def _expire(self) -> None:
        if not self._gone:
            return
        horizon = self._clock() - EXPIRY_SECONDS
        doomed = [
            identity
            for identity, series in self._series.items()
            if series.used < horizon and not series.live and not self._gone.isdisjoint(_uids(series))
        ]
        for identity in doomed:
            del self._series[identity]
        if doomed:
            kept = {id(series) for series in self._series.values()}
            self._cache = {key: series for key, series in self._cache.items() if id(series) in kept}
        self._gone &= {uid for series in self._series.values() for uid in _uids(series)}


def _uids(series: _Series) -> list[str]:
    return [item.uid for item in (series.source, series.destination, series.service) if item is not None]


def _key(record: FlowRecord) -> Key:
    source, destination, service = record.source, record.destination, record.service
    return (
        record.reporter,
        source.uid if source is not None else "",
        destination.uid if destination is not None else "",
        service.uid if service is not None else "",
        record.source_principal or "",
        record.destination_principal or "",
        record.protocol,
        record.security,
    )


def _samples_of(series: _Series) -> list[Sample]:
    plain = {**series.labels, "response_flags": NO_FLAG}
    result: list[Sample] = [
        CounterSample(name=OPENED, labels=plain, value=series.opened),
        CounterSample(name=SENT, labels=plain, value=series.sent),
        CounterSample(name=RECEIVED, labels=plain, value=series.received),
    ]
    for name, by_flag in ((CLOSED, series.closed), (FAILED, series.failed)):
        result += [
            CounterSample(name=name, labels={**series.labels, "response_flags": flag}, value=count)
            for flag, count in by_flag.items()
        ]
    return result
