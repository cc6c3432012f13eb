from __future__ import annotations

import math

import pytest

from tests.bench.figures import UNITS, Topology, summarise


def test_a_row_is_the_median_and_the_extremes_of_the_runs() -> None:
    samples = [{"rps": value, "p99_us": 10 * value} for value in (3.0, 1.0, 9.0, 2.0, 4.0)]
    rps, p99 = summarise(Topology.CROSS_NODE, "http-keepalive-16", "envoy", samples)
    assert (rps.metric, rps.unit, rps.median, rps.min, rps.max, rps.runs) == ("rps", "1/s", 3.0, 1.0, 9.0, 5)
    assert (p99.metric, p99.unit, p99.median) == ("p99_us", "us", 30.0)
    assert (rps.topology, rps.case, rps.system) == ("cross-node", "http-keepalive-16", "envoy")


def test_an_even_number_of_runs_has_the_mean_of_the_middle_two() -> None:
    (row,) = summarise(Topology.SAME_NODE, "bulk", "direct", [{"gbit_s": value} for value in (1.0, 2.0, 4.0, 8.0)])
    assert (row.median, row.runs) == (3.0, 4)


def test_rows_come_in_the_order_of_the_metrics() -> None:
    sample = dict.fromkeys(reversed(list(UNITS)), 1.0)
    assert [row.metric for row in summarise(Topology.SAME_NODE, "c", "s", [sample])] == list(UNITS)


@pytest.mark.parametrize(
    "samples",
    [
        pytest.param([], id="no run"),
        pytest.param([{"rps": 1.0}, {"p50_us": 1.0}], id="runs with different metrics"),
        pytest.param([{"rps": 1.0}, {"rps": 1.0, "p50_us": 1.0}], id="a metric that only one run has"),
        pytest.param([{"speed": 1.0}], id="unknown metric"),
        pytest.param([{"rps": math.nan}], id="not a number"),
        pytest.param([{"rps": math.inf}], id="infinite"),
    ],
)
def test_nothing_is_made_of_unsound_samples(samples: list[dict[str, float]]) -> None:
    with pytest.raises(ValueError, match=r"case|system|rps|speed"):
        summarise(Topology.SAME_NODE, "case", "system", samples)
