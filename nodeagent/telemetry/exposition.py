"""Writes samples, and the figures of this process, as text for scrapers: Prometheus's format or OpenMetrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from nodeagent.telemetry.samples import (
    COUNTER_SUFFIX,
    CounterSample,
    Distribution,
    GaugeSample,
    HistogramSample,
    Sample,
    SampleError,
)

HELP = {
    "istio_tcp_connections_opened_total": "Connections established.",
    "istio_tcp_connections_closed_total": "Established connections that ended; response_flags tells how.",
    "istio_tcp_connections_failed_total": "Connections refused or not established; response_flags tells why.",
    "istio_tcp_sent_bytes_total": "Response bytes: from the server to the client.",
    "istio_tcp_received_bytes_total": "Request bytes: from the client to the server.",
    "nodemesh_connection_duration_seconds": "How long established connections lasted, by the end that reports.",
    "nodemesh_errors_total": "Connections and tunnels that ended with an error, by reason and whose move it is.",
    "nodemesh_metric_series_dropped_total": "Connections not counted because a worker held too many series.",
    "nodemesh_dns_messages_total": "DNS messages of workloads by what became of them.",
    "nodemesh_limit_refusals_total": "What was refused because its owner had used up a share, by limit and owner.",
    "nodemesh_unproved_connections": "Connections to the tunnel port that have proved no identity yet.",
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
    "nodemesh_channel_messages_ignored_total": "Messages of the manager that a worker of another version did not know.",
    "nodemesh_tunnels": "Tunnels to and from other nodes that are open now.",
    "nodemesh_ready": "1 if the agent is ready.",
}


class SampleCollector:
    """Samples as a collector of prometheus_client: one family for each name, of the kind of its samples."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = tuple(samples)

    def collect(self) -> Iterator[Metric]:
        """The families, in order of their names. SampleError if samples of one name differ in kind."""
        by_name: dict[str, list[Sample]] = {}
        for sample in self._samples:
            by_name.setdefault(sample.name, []).append(sample)
        for name in sorted(by_name):
            yield _family(name, by_name[name])


def _family(name: str, samples: Sequence[Sample]) -> Metric:
    label_names = sorted({label for sample in samples for label in sample.labels})
    family = _empty_family(samples[0], label_names)
    for sample in samples:
        values = [sample.labels.get(label, "") for label in label_names]
        if isinstance(family, HistogramMetricFamily) and isinstance(sample, HistogramSample):
            family.add_metric(values, _buckets(sample.value), sample.value.total)
        elif isinstance(family, CounterMetricFamily) and isinstance(sample, CounterSample):  # noqa: SIM114 - narrows both
            family.add_metric(values, sample.value)
        elif isinstance(family, GaugeMetricFamily) and isinstance(sample, GaugeSample):
            family.add_metric(values, sample.value)
        else:
            raise SampleError(f"{name} is a {type(samples[0]).__name__} and a {type(sample).__name__}")
    return family


def _empty_family(
    sample: Sample, label_names: Sequence[str]
) -> CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily:
    text = HELP.get(sample.name, "A metric of nodemesh.")
    if isinstance(sample, HistogramSample):
        return HistogramMetricFamily(sample.name, text, labels=label_names)
    if isinstance(sample, CounterSample):
        return CounterMetricFamily(sample.name.removesuffix(COUNTER_SUFFIX), text, labels=label_names)
    return GaugeMetricFamily(sample.name, text, labels=label_names)


def _buckets(value: Distribution) -> list[tuple[str, float]]:
    """The value of ``le`` and the cumulative count of each bucket."""
    return [*((repr(bound), count) for bound, count in value.cumulative()), ("+Inf", value.count)]


def render(samples: Iterable[Sample], accept: str = "") -> tuple[bytes, str]:
    """The exposition of the samples and of this process: body and content type, as the scraper's Accept asks for."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    registry.register(SampleCollector(samples))
    encoder, content_type = choose_encoder(accept)
    return encoder(registry), content_type
