from __future__ import annotations

from dataclasses import replace

import pytest

from nodeagent.reasons import Reason
from nodeagent.telemetry import metrics as module
from nodeagent.telemetry.flow import FlowRecord, Reporter
from nodeagent.telemetry.histogram import DURATION_BOUNDS
from nodeagent.telemetry.metrics import (
    CLOSED,
    DROPPED_SERIES,
    DURATION,
    ERRORS,
    EXPIRY_SECONDS,
    FAILED,
    OPENED,
    RECEIVED,
    SENT,
    FlowMetrics,
)
from nodeagent.telemetry.samples import Distribution, HistogramSample, Sample
from tests.support.flows import record
from tests.support.objects import workload


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics(clock: Clock) -> FlowMetrics:
    return FlowMetrics(clock)


def total(metrics: FlowMetrics, name: str, **labels: str) -> float:
    return sum(
        sample.value
        for sample in metrics.samples()
        if not isinstance(sample, HistogramSample) and sample.name == name and labels.items() <= sample.labels.items()
    )


def carry(flow: FlowRecord, sent: int, received: int) -> FlowRecord:
    flow.bytes_sent += sent
    flow.bytes_received += received
    return flow


def test_sent_counts_the_response_and_received_the_request(metrics: FlowMetrics) -> None:
    flow = record()
    metrics.opened(flow)
    metrics.closed(carry(flow, sent=10, received=2000))
    assert total(metrics, SENT) == 2000
    assert total(metrics, RECEIVED) == 10
    assert total(metrics, OPENED, response_flags="-") == total(metrics, CLOSED, response_flags="-") == 1
    assert total(metrics, FAILED) == 0


def test_bytes_of_a_live_connection_are_counted_once_each(metrics: FlowMetrics) -> None:
    flow = record()
    metrics.opened(flow)
    metrics.report_live(carry(flow, 1, 100))
    metrics.report_live(carry(flow, 1, 50))
    metrics.report_live(flow)
    assert total(metrics, SENT) == 150
    metrics.closed(carry(flow, 1, 1))
    assert (total(metrics, SENT), total(metrics, RECEIVED)) == (151, 3)


def test_a_connection_that_was_never_opened_failed(metrics: FlowMetrics) -> None:
    metrics.closed(record(reason=Reason.POLICY_DENIED))
    assert total(metrics, FAILED, response_flags="DENY") == 1
    assert total(metrics, OPENED) == total(metrics, CLOSED) == 0
    assert total(metrics, ERRORS, reason="policy-denied", fault="operator") == 1


def test_a_connection_cut_by_policy_closes_with_its_flag(metrics: FlowMetrics) -> None:
    flow = record()
    metrics.opened(flow)
    flow.reason = Reason.POLICY_REVOKED
    metrics.closed(flow)
    assert total(metrics, CLOSED, response_flags="DENY") == 1
    assert total(metrics, FAILED) == 0


def test_both_ends_of_a_same_node_flow_are_counted_apart(metrics: FlowMetrics) -> None:
    for reporter in Reporter:
        flow = record(flow_id=7, reporter=reporter)
        metrics.opened(flow)
    assert total(metrics, OPENED, reporter="source") == total(metrics, OPENED, reporter="destination") == 1


def test_labels_follow_a_workload_that_changed_under_its_uid(metrics: FlowMetrics) -> None:
    old = workload()
    metrics.opened(record(destination=old))
    metrics.opened(record(destination=replace(old, version="v2")))
    assert total(metrics, OPENED, destination_version="unknown") == 1
    assert total(metrics, OPENED, destination_version="v2") == 1


def test_a_series_of_a_gone_workload_expires_after_its_last_use(metrics: FlowMetrics, clock: Clock) -> None:
    flow = record()
    metrics.opened(flow)
    assert flow.destination is not None
    metrics.forget([flow.destination.uid])
    clock.now = 2 * EXPIRY_SECONDS
    assert total(metrics, OPENED) == 1, "a live connection keeps its series"
    metrics.closed(flow)
    clock.now += EXPIRY_SECONDS - 1
    assert total(metrics, OPENED) == 1
    clock.now += 2
    assert total(metrics, OPENED) == 0


def test_a_series_of_workloads_that_exist_never_expires(metrics: FlowMetrics, clock: Clock) -> None:
    flow = record()
    metrics.opened(flow)
    metrics.closed(flow)
    metrics.forget(["shop/other@1"])
    clock.now = 100 * EXPIRY_SECONDS
    assert total(metrics, OPENED) == 1


def test_series_are_bounded_and_what_is_left_out_is_counted(clock: Clock) -> None:
    metrics = FlowMetrics(clock, max_series=2)
    for number in range(5):
        flow = record(destination=workload(f"web-{number}"))
        metrics.opened(flow)
        metrics.report_live(carry(flow, 1, 1))
        metrics.closed(flow)
    assert total(metrics, OPENED) == 2
    # opening alone looks for the series: what has none closes without one
    assert total(metrics, DROPPED_SERIES) == 3


@pytest.mark.interpreted
def test_the_label_set_is_made_once_for_a_pair(metrics: FlowMetrics, monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0
    original = module.label_set

    def counting(flow: FlowRecord) -> dict[str, str]:
        nonlocal made
        made += 1
        return original(flow)

    monkeypatch.setattr(module, "label_set", counting)
    flow = record()
    for number in range(10):
        again = replace(flow, flow_id=number)
        metrics.opened(again)
        metrics.closed(again)
    assert made == 1


def test_gauges_are_the_last_value(metrics: FlowMetrics) -> None:
    metrics.gauge("nodemesh_tunnels", 3, direction="inbound")
    metrics.gauge("nodemesh_tunnels", 1, direction="inbound")
    assert total(metrics, "nodemesh_tunnels", direction="inbound") == 1


def test_news_are_the_series_that_changed(metrics: FlowMetrics) -> None:
    def told() -> set[str]:
        return {s.labels["destination_workload"] for s in metrics.news() if "destination_workload" in s.labels}

    one, two = record(destination=workload("one")), record(destination=workload("two"))
    for flow in (one, two):
        metrics.opened(flow)
    assert told() == {"one", "two"}
    metrics.report_live(one)
    assert told() == set(), "nothing moved"
    metrics.report_live(carry(two, 1, 1))
    assert told() == {"two"}
    metrics.closed(one)
    assert told() == {"one"}
    metrics.closed(record(destination=workload("one"), reason=Reason.POLICY_DENIED))
    assert told() == {"one"}
    assert total(metrics, OPENED) == 2, "all of it is there all the same"


def durations(samples: tuple[Sample, ...]) -> dict[str, Distribution]:
    return {s.labels["reporter"]: s.value for s in samples if isinstance(s, HistogramSample) and s.name == DURATION}


def test_how_long_established_connections_lasted(metrics: FlowMetrics) -> None:
    for lasted in (0.05, 30.0, -1.0):
        flow = record()
        metrics.opened(flow)
        flow.ended = flow.started + lasted
        metrics.closed(flow)
    refused = record(reason=Reason.POLICY_DENIED)
    refused.ended = refused.started + 1
    metrics.closed(refused)
    told = durations(metrics.news())["source"]
    assert told.bounds == DURATION_BOUNDS and told.count == 3 and round(told.total, 3) == 30.05
    assert told.counts[:3] == (1, 0, 1), "a clock that was set back makes it 0"
    assert not durations(metrics.news()), "nothing new"
    assert durations(metrics.samples())["source"] == told


def test_histograms_are_bounded_like_series(clock: Clock) -> None:
    metrics = FlowMetrics(clock, max_series=2)
    held = metrics.histogram("h", (1.0,), app="0")
    for number in range(4):
        metrics.histogram("h", (1.0,), app=str(number)).observe(1)
    assert metrics.histogram("h", (1.0,), app="0") is held
    told = {s.labels["app"] for s in metrics.samples() if isinstance(s, HistogramSample)}
    assert told == {"0", "1"} and total(metrics, DROPPED_SERIES) == 2
