from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from nodeagent.channel import Sample
from nodeagent.telemetry.aggregate import RETIRED_SECONDS, Aggregate, render


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def sample(value: float, name: str = "x_total", **labels: str) -> Sample:
    return Sample(name=name, labels=labels, value=value)


def value(aggregate: Aggregate, name: str = "x_total", **labels: str) -> float | None:
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


def test_what_is_rendered_can_be_read_back() -> None:
    hostile = 'a"b\\c\nd'
    body, content_type = render([sample(3, "istio_tcp_sent_bytes_total", source_app=hostile), sample(1, "g")])
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    sent = families["istio_tcp_sent_bytes"].samples[0]
    assert (sent.name, sent.value, sent.labels) == ("istio_tcp_sent_bytes_total", 3, {"source_app": hostile})
    assert families["istio_tcp_sent_bytes"].type == "counter"
    assert families["g"].type == "gauge"
    assert "process_open_fds" in families
    assert content_type.startswith("text/plain")


def test_openmetrics_for_who_asks_for_it() -> None:
    body, content_type = render([sample(1)], "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
