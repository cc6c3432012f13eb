from __future__ import annotations

import pytest

from tests.bench.catalogue import CASES
from tests.bench.figures import UNITS, Row, Topology
from tests.bench.systems.registry import SYSTEMS
from tests.bench.verdicts import OURS, TARGETS, Target, judge, summary


def _rows(target: Target, **medians: float) -> list[Row]:
    return [
        Row(
            topology=target.topology.value,
            case=target.case,
            system=system,
            metric=target.metric,
            unit=UNITS[target.metric],
            median=median,
            min=median / 2,
            max=median * 2,
            runs=5,
        )
        for system, median in medians.items()
    ]


MORE = Target(topology=Topology.SAME_NODE, case="bulk", metric="gbit_s", bound=2.0, against=("direct",))
LESS = Target(topology=Topology.CROSS_NODE, case="bulk", metric="cpu_s_per_gb", bound=1.0, against=("envoy", "haproxy"))
PLAIN = Target(topology=Topology.CROSS_NODE, case="idle-memory", metric="kib_per_connection", bound=30.0)


@pytest.mark.parametrize(("ours", "met"), [(40.0, True), (39.9, False), (100.0, True)])
def test_of_a_rate_the_bound_is_the_least(ours: float, met: bool) -> None:
    (verdict,) = judge(_rows(MORE, nodemesh=ours, direct=20.0), [MORE])
    assert (verdict.met, verdict.measured, verdict.baseline) == (met, ours / 20.0, 20.0)


@pytest.mark.parametrize(("ours", "met"), [(2.0, True), (2.1, False), (1.0, True)])
def test_of_a_cost_the_bound_is_the_most_and_the_better_peer_the_measure(ours: float, met: bool) -> None:
    (verdict,) = judge(_rows(LESS, nodemesh=ours, envoy=3.0, haproxy=2.0), [LESS])
    assert (verdict.met, verdict.baseline) == (met, 2.0)


@pytest.mark.parametrize(("ours", "met"), [(30.0, True), (30.1, False)])
def test_a_bound_may_stand_alone(ours: float, met: bool) -> None:
    (verdict,) = judge(_rows(PLAIN, nodemesh=ours, envoy=1.0), [PLAIN])
    assert (verdict.met, verdict.measured, verdict.baseline) == (met, ours, None)


def test_what_was_not_measured_is_not_judged_but_counted() -> None:
    rows = [*_rows(MORE, direct=20.0), *_rows(LESS, nodemesh=1.0), *_rows(PLAIN, nodemesh=31.0)]
    verdicts = judge(rows, [MORE, LESS, PLAIN])
    assert [verdict.target for verdict in verdicts] == [PLAIN]
    assert summary(verdicts, [MORE, LESS, PLAIN]) == "0 of 1 met; 2 more not measured in this run"
    assert summary(judge(_rows(PLAIN, nodemesh=3.0), [PLAIN]), [PLAIN]) == "1 of 1 met"


def test_a_baseline_of_zero_is_none() -> None:
    assert judge(_rows(MORE, nodemesh=1.0, direct=0.0), [MORE]) == []


def test_a_target_reads_as_it_is_meant() -> None:
    assert MORE.text == ">= 2 x direct"
    assert LESS.text == "<= 1 x the better of envoy, haproxy"
    assert PLAIN.text == "<= 30"


def test_every_target_is_about_something_that_is_measured() -> None:
    for target in TARGETS:
        for name in (OURS, *target.against):
            assert target.metric in CASES[target.case].gives(has_proxies=SYSTEMS[name].has_proxies), target
