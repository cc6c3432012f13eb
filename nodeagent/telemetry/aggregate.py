"""What is exported: the sum of all workers' samples, and what dead workers had counted. A counter never goes
backwards.

Workers tell what changed; a series that a worker tells nothing of (idle, expired there, the worker dead) keeps its last
value here, until the workload that it names is gone and nothing has added to it for RETIRED_SECONDS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from nodeagent.channel import Sample

COUNTER_SUFFIX = "_total"
RETIRED_SECONDS = 3600.0
"""How long the last value of a gone workload's series is still exported."""

HELP = {
    "istio_tcp_connections_opened_total": "Connections established.",
    "istio_tcp_connections_closed_total": "Established connections that ended; response_flags tells how.",
    "istio_tcp_connections_failed_total": "Connections refused or not established; response_flags tells why.",
    "istio_tcp_sent_bytes_total": "Response bytes: from the server to the client.",
    "istio_tcp_received_bytes_total": "Request bytes: from the client to the server.",
    "nodemesh_errors_total": "Connections and tunnels that ended with an error, by reason and whose move it is.",
    "nodemesh_metric_series_dropped_total": "Connections not counted because a worker held too many series.",
    "nodemesh_dns_messages_total": "DNS messages of workloads by what became of them.",
    "nodemesh_access_log_dropped_total": "Access log lines lost because they could not be written fast enough.",
    "nodemesh_capture_total": "What the BPF programs did with connections, by reason.",
    "nodemesh_egress_total": "Connections and datagrams of workloads out of the mesh, by protocol, allowed or refused.",
    "nodemesh_svid_expiry_timestamp_seconds": "When the SVID of an identity expires, seconds since 1970.",
    "nodemesh_svid_renewals_total": "SVIDs issued to this node, by identity.",
    "nodemesh_svid_failures_total": "Requests for an SVID that failed, by identity.",
    "nodemesh_node_certificate_expiry_timestamp_seconds": "Expiry of the node's own certificate, seconds since 1970.",
    "nodemesh_watch_revision": "Revision of the discovery state that the agent holds.",
    "nodemesh_control_connected": "1 while the watch of control is open.",
    "nodemesh_workers": "Worker processes that serve.",
    "nodemesh_worker_restarts_total": "Worker processes that ended and were started again.",
    "nodemesh_enrolled_cgroups": "Control groups whose connections are captured.",
    "nodemesh_live_flows": "Connections that are open now.",
    "nodemesh_tunnels": "Tunnels to and from other nodes that are open now.",
    "nodemesh_ready": "1 if the agent is ready.",
}

SeriesKey = tuple[str, tuple[tuple[str, str], ...]]


class Aggregate:
    """The sum over workers. ``clock`` is monotonic seconds. Workers are named by anything unique to one process."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._workers: dict[int, dict[SeriesKey, float]] = {}
        self._retired: dict[SeriesKey, float] = {}
        self._changed: dict[SeriesKey, float] = {}
        """When the sum changed last."""

    def update(self, worker: int, samples: Iterable[Sample]) -> None:
        """What a worker counts now, all of it or what changed; the rest is as it was told before."""
        known = self._workers.setdefault(worker, {})
        now = self._clock()
        for sample in samples:
            key = _key(sample)
            former = known.get(key)
            if former == sample.value:
                continue
            if former is not None and sample.value < former:
                # the series expired there and began anew: what it had counted stays counted
                self._retire(key, former)
            known[key] = sample.value
            self._changed[key] = now

    def retire(self, worker: int) -> None:
        """The worker is dead: what it had counted stays counted; its gauges are gone."""
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
        """Every series, summed."""
        totals = dict(self._retired)
        for samples in self._workers.values():
            for key, value in samples.items():
                totals[key] = totals.get(key, 0.0) + value
        return tuple(Sample(name=name, labels=dict(labels), value=value) for (name, labels), value in totals.items())

    def _retire(self, key: SeriesKey, value: float) -> None:
        if key[0].endswith(COUNTER_SUFFIX):
            self._retired[key] = self._retired.get(key, 0.0) + value


def _key(sample: Sample) -> SeriesKey:
    return sample.name, tuple(sorted(sample.labels.items()))


class SampleCollector:
    """Samples as a collector of prometheus_client: one family for each name, counters by their suffix."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = tuple(samples)

    def collect(self) -> Iterator[Metric]:
        """The families, in order of their names."""
        by_name: dict[str, list[Sample]] = {}
        for sample in self._samples:
            by_name.setdefault(sample.name, []).append(sample)
        for name in sorted(by_name):
            yield _family(name, by_name[name])


def _family(name: str, samples: list[Sample]) -> Metric:
    label_names = sorted({label for sample in samples for label in sample.labels})
    text = HELP.get(name, "A metric of nodemesh.")
    family: CounterMetricFamily | GaugeMetricFamily
    if name.endswith(COUNTER_SUFFIX):
        family = CounterMetricFamily(name.removesuffix(COUNTER_SUFFIX), text, labels=label_names)
    else:
        family = GaugeMetricFamily(name, text, labels=label_names)
    for sample in samples:
        family.add_metric([sample.labels.get(label, "") for label in label_names], sample.value)
    return family


def render(samples: Iterable[Sample], accept: str = "") -> tuple[bytes, str]:
    """The exposition of the samples and of this process: body and content type, as the scraper's Accept asks for."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    registry.register(SampleCollector(samples))
    encoder, content_type = choose_encoder(accept)
    return encoder(registry), content_type
