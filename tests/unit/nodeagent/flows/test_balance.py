"""Two random choices, the less busy one; failing endpoints rest, longer each time."""

from __future__ import annotations

from collections import Counter
from random import Random

from nodeagent.flows.balance import (
    FAILURES_TO_EJECT,
    FIRST_EJECTION_SECONDS,
    LONGEST_EJECTION_SECONDS,
    Balancer,
)
from tests.support.objects import workload

ENDPOINTS = tuple(workload(f"web-{index}") for index in range(4))
FIRST, SECOND = ENDPOINTS[:2]


def balancer() -> Balancer:
    return Balancer(Random(3))


def test_no_endpoint_is_none() -> None:
    assert balancer().choose((), 0.0) is None


def test_the_less_busy_of_two_is_taken() -> None:
    one = balancer()
    one.started(FIRST.uid)
    assert {one.choose((FIRST, SECOND), 0.0).uid for _ in range(20)} == {SECOND.uid}
    one.ended(FIRST.uid)
    assert {one.choose((FIRST, SECOND), 0.0).uid for _ in range(50)} == {FIRST.uid, SECOND.uid}


def test_connections_spread_evenly() -> None:
    one, counts = balancer(), Counter()
    for _ in range(400):
        chosen = one.choose(ENDPOINTS, 0.0)
        one.started(chosen.uid)
        counts[chosen.uid] += 1
    assert max(counts.values()) - min(counts.values()) <= 10


def test_counts_come_back_to_nothing() -> None:
    one = balancer()
    for _ in range(3):
        one.started(FIRST.uid)
    assert one.live(FIRST.uid) == 3
    for _ in range(4):  # one too many does no harm
        one.ended(FIRST.uid)
    assert one.live(FIRST.uid) == 0
    assert not one._live


def chosen(one: Balancer, now: float = 0.0) -> set[str]:
    """Everything that is chosen of the two, sooner or later."""
    return {one.choose((FIRST, SECOND), now).uid for _ in range(50)}


def fail(one: Balancer, times: int, now: float = 0.0) -> None:
    for _ in range(times):
        one.failed(FIRST.uid, now)


def test_an_endpoint_that_fails_repeatedly_rests_and_comes_back() -> None:
    one = balancer()
    fail(one, FAILURES_TO_EJECT - 1)
    assert FIRST.uid in chosen(one)
    fail(one, 1)
    assert chosen(one) == {SECOND.uid}
    assert FIRST.uid in chosen(one, FIRST_EJECTION_SECONDS)


def test_each_further_failure_rests_longer_within_a_bound() -> None:
    one, rests = balancer(), []
    for _ in range(FAILURES_TO_EJECT + 30):
        fail(one, 1)
        rests.append(one._ejected_until.get(FIRST.uid, 0.0))
    assert rests[FAILURES_TO_EJECT + 3] > rests[FAILURES_TO_EJECT - 1] * 4
    assert max(rests) <= LONGEST_EJECTION_SECONDS


def test_success_forgives() -> None:
    one = balancer()
    fail(one, FAILURES_TO_EJECT)
    one.succeeded(FIRST.uid)
    assert FIRST.uid in chosen(one)
    fail(one, FAILURES_TO_EJECT - 1)
    assert FIRST.uid in chosen(one)


def test_if_all_rest_all_are_tried() -> None:
    one = balancer()
    for endpoint in (FIRST, SECOND):
        for _ in range(FAILURES_TO_EJECT):
            one.failed(endpoint.uid, 0.0)
    assert chosen(one) == {FIRST.uid, SECOND.uid}
    assert one.choose((FIRST,), 0.0) is FIRST


def test_what_is_gone_is_forgotten() -> None:
    one = balancer()
    fail(one, FAILURES_TO_EJECT)
    one.started(FIRST.uid)
    one.forget(FIRST.uid)
    assert not (one._live or one._failures or one._ejected_until)
    one.ended(FIRST.uid)
    assert one.live(FIRST.uid) == 0
