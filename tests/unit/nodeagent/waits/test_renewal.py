from __future__ import annotations

import pytest

from nodeagent.waits.renewal import (
    SHORTEST_SECONDS,
    SOON_SECONDS,
    WRONG_CLOCK_SECONDS,
    remaining,
    renewal_wait,
)

T0 = 1_700_000_000.0
HOUR = 3600.0
DAY = 24 * HOUR


def wait(now: float, draw: float = 0.5, *, fresh: bool = True, life: float = DAY, dated_back: float = 60.0) -> float:
    """Of a certificate that was issued at T0."""
    return renewal_wait(T0 - dated_back, T0 + life, now, draw, fresh=fresh)


@pytest.mark.parametrize(("draw", "share"), [(0.0, 0.45), (0.5, 0.5), (0.999999, 0.55)])
@pytest.mark.parametrize("fresh", [True, False])
def test_about_half_of_a_life(draw: float, share: float, fresh: bool) -> None:
    assert wait(T0, draw, fresh=fresh) == pytest.approx(share * DAY, abs=1)


def test_the_time_that_a_ca_dates_back_is_no_part_of_the_life() -> None:
    assert wait(T0, life=30.0) == pytest.approx(15.0)


def test_a_clock_far_ahead_waits_for_half_of_what_is_left() -> None:
    assert wait(T0 + 15 * HOUR) == pytest.approx(4.5 * HOUR)
    assert wait(T0 + DAY - 60) == 30.0


@pytest.mark.parametrize("ahead", [DAY, DAY + 1, 30 * DAY, 1e12])
def test_a_clock_after_the_end_of_every_certificate_asks_a_few_times_a_minute(ahead: float) -> None:
    assert wait(T0 + ahead, 0.0) == WRONG_CLOCK_SECONDS
    assert wait(T0 + ahead, 0.999) == pytest.approx(2 * WRONG_CLOCK_SECONDS, rel=0.01)


@pytest.mark.parametrize("behind", [15 * HOUR, 30 * DAY, 1.7e9])
@pytest.mark.parametrize("fresh", [True, False])
def test_a_clock_far_behind_does_not_sleep_over_the_expiry(behind: float, fresh: bool) -> None:
    assert wait(T0 - behind, 0.999, fresh=fresh) <= 0.56 * DAY


def test_after_a_restart_what_is_overdue_is_asked_for_soon_but_not_by_all_nodes_at_once() -> None:
    assert wait(T0 + 20 * HOUR, 0.0, fresh=False) == SOON_SECONDS
    assert wait(T0 + 20 * HOUR, 0.75, fresh=False) == 1.75 * SOON_SECONDS
    assert wait(T0 + DAY - 8, 0.0, fresh=False) == 2.0, "before it expires"


@pytest.mark.parametrize("life", [-1e9, -1.0, 0.0, 1e-9, 0.5, 1.0, 2.0])
def test_an_absurdly_short_life_makes_no_storm(life: float) -> None:
    for fresh in (True, False):
        assert wait(T0, 0.0, fresh=fresh, life=life, dated_back=0.0) >= SHORTEST_SECONDS


def test_what_remains_of_a_wait() -> None:
    assert remaining(T0 + 50, 100.0, T0) == 50
    assert remaining(T0 + 100, 100.0, T0) == 100
    assert remaining(T0, 100.0, T0) == remaining(T0, 100.0, T0 + 1e9) == 0, "it is over"
    assert remaining(T0 + 102, 100.0, T0) == remaining(T0, 100.0, T0 - DAY) == 0, "the clock was set back"
