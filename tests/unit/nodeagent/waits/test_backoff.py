from __future__ import annotations

import math

import pytest

from nodeagent.waits.backoff import Backoff


def test_waits_double_up_to_the_longest_and_start_again_after_a_reset() -> None:
    backoff = Backoff(1.0, 10.0, lambda: 0.0)
    assert [backoff.next() for _ in range(6)] == [1, 2, 4, 8, 10, 10]
    assert backoff.failures == 6
    backoff.reset()
    assert (backoff.failures, backoff.next()) == (0, 1)


def test_jitter_shortens_each_wait_by_its_own_draw() -> None:
    draws = iter([0.0, 0.5, 0.999999])
    backoff = Backoff(4.0, 4.0, lambda: next(draws), jitter=0.5)
    assert [backoff.next() for _ in range(3)] == [4.0, 3.0, pytest.approx(2.0, abs=1e-4)]
    assert backoff.floor == 2.0


def test_callers_that_count_themselves() -> None:
    backoff = Backoff(1.0, 60.0, lambda: 0.0, factor=3.0)
    assert [backoff.wait(failures) for failures in (-1, 0, 1, 2, 4, 5, 10**9)] == [1, 1, 1, 3, 27, 60, 60]


@pytest.mark.parametrize(
    ("first", "longest", "options"),
    [
        (0.0, 1.0, {}),
        (-1.0, 1.0, {}),
        (2.0, 1.0, {}),
        (1.0, math.inf, {}),
        (math.nan, 1.0, {}),
        (1.0, 2.0, {"factor": 1.0}),
        (1.0, 2.0, {"jitter": 1.0}),
        (1.0, 2.0, {"jitter": -0.1}),
    ],
)
def test_a_backoff_without_bounds_is_refused(first: float, longest: float, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="has no bounds"):
        Backoff(first, longest, lambda: 0.0, **options)
