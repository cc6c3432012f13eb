"""What scrapers get, read back by the parsers of prometheus_client."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from nodeagent.telemetry.exposition import render
from nodeagent.telemetry.samples import CounterSample, Distribution, GaugeSample, HistogramSample, Sample, SampleError

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
HOSTILE = 'a"b\\c\nd'
SPREAD = Distribution((0.1, 2.5, 60.0), (1, 0, 2, 4), 7_500_000)
NOTHING = Distribution((0.1, 2.5, 60.0), (0, 0, 0, 0), 0)
SAMPLES: tuple[Sample, ...] = (
    CounterSample(name="istio_tcp_sent_bytes_total", labels={"source_app": HOSTILE}, value=3),
    GaugeSample(name="g", labels={}, value=1),
    HistogramSample(name="h_seconds", labels={"app": HOSTILE}, value=SPREAD),
    HistogramSample(name="h_seconds", labels={}, value=NOTHING),
)


@pytest.fixture(params=["", OPENMETRICS], ids=["prometheus", "openmetrics"])
def families(request: pytest.FixtureRequest) -> dict[str, Any]:
    read: Callable[[str], Iterable[Any]] = (
        openmetrics_parser.text_string_to_metric_families if request.param else parser.text_string_to_metric_families
    )
    body, content_type = render(SAMPLES, request.param)
    assert content_type.startswith("application/openmetrics-text" if request.param else "text/plain")
    assert body.endswith(b"# EOF\n") == bool(request.param)
    return {family.name: family for family in read(body.decode())}


def test_counters_and_gauges(families: dict[str, Any]) -> None:
    (sent,) = families["istio_tcp_sent_bytes"].samples
    assert (sent.name, sent.value, sent.labels) == ("istio_tcp_sent_bytes_total", 3, {"source_app": HOSTILE})
    assert families["istio_tcp_sent_bytes"].type == "counter"
    assert families["g"].type == "gauge"
    assert "process_open_fds" in families


def test_histograms(families: dict[str, Any]) -> None:
    family = families["h_seconds"]
    assert family.type == "histogram"
    told = {(s.name, s.labels["app"], s.labels.get("le")): s.value for s in family.samples}
    assert told == {
        **{("h_seconds_bucket", HOSTILE, le): n for le, n in (("0.1", 1), ("2.5", 1), ("60.0", 3), ("+Inf", 7))},
        ("h_seconds_count", HOSTILE, None): 7,
        ("h_seconds_sum", HOSTILE, None): 7.5,
        **{("h_seconds_bucket", "", le): 0 for le in ("0.1", "2.5", "60.0", "+Inf")},
        ("h_seconds_count", "", None): 0,
        ("h_seconds_sum", "", None): 0,
    }


def test_a_name_of_two_kinds_is_refused() -> None:
    with pytest.raises(SampleError, match="h_seconds is a"):
        render([*SAMPLES, GaugeSample(name="h_seconds", labels={}, value=1)])
