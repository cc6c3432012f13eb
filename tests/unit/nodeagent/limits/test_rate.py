"""Rates of each owner, and what is counted and named of those who exceed."""

from __future__ import annotations

from nodeagent.limits.excess import MAX_OWNERS, OTHERS, TELL_SECONDS, Excess
from nodeagent.limits.rate import Rates
from nodeagent.limits.settings import Limits


def test_an_allowance_comes_back_with_time_and_is_each_owners_own() -> None:
    rates = Rates(per_second=2, burst=4)
    assert [rates.take("a", 0.0) for _ in range(5)] == [True] * 4 + [False]
    assert rates.take("b", 0.0)
    assert [rates.take("a", 1.0) for _ in range(3)] == [True, True, False]
    assert [rates.take("a", 99.0) for _ in range(5)] == [True] * 4 + [False]


def test_many_owners_cost_bounded_memory() -> None:
    rates = Rates(per_second=1, burst=2, owners=10)
    for number in range(1000):
        rates.take(f"owner {number}", number * 0.001)
        assert len(rates._spent) <= 10


def test_who_exceeds_is_counted_always_and_told_now_and_then() -> None:
    told: list[str] = []
    now = [0.0]
    excess = Excess(Limits(flows_per_workload=7), lambda: now[0], told.append)
    for _ in range(5):
        detail = excess.refused("flows_per_workload", "shop/a@1")
    assert detail == "shop/a@1 has used up its share (limits.flows_per_workload: 7)"
    assert len(told) == 1 and detail in told[0]
    now[0] = TELL_SECONDS
    excess.refused("flows_per_workload", "shop/a@1")
    assert excess.counts == {("flows_per_workload", "shop/a@1"): 6}
    assert len(told) == 2 and "6 times" in told[1]


def test_owners_that_are_named_are_bounded() -> None:
    excess = Excess(clock=lambda: 0.0)
    for number in range(3 * MAX_OWNERS):
        excess.refused("unproved", f"10.0.{number >> 8}.{number & 255}")
    assert len(excess.counts) == MAX_OWNERS + 1
    assert excess.counts["unproved", OTHERS] == 2 * MAX_OWNERS
