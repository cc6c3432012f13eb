"""Every wait has a floor and a ceiling, whatever fails however often and whatever the clocks say."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.waits.backoff import Backoff
from nodeagent.waits.renewal import SHORTEST_SECONDS, WRONG_CLOCK_SECONDS, renewal_wait

draws = st.floats(0, 1, exclude_max=True)
times = st.floats(-1e13, 1e13, allow_nan=False)


@settings(deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(1, 1e6), st.floats(1.01, 100), st.floats(0, 0.99), draws, st.integers(1, 10**12))
def test_backoff(first: float, times_longer: float, factor: float, jitter: float, draw: float, failures: int) -> None:
    backoff = Backoff(first, first * times_longer, lambda: draw, factor=factor, jitter=jitter)
    wait = backoff.wait(failures)
    assert 0 < backoff.floor * 0.999999 <= wait <= backoff.longest
    assert backoff.wait(failures + 1) >= wait


@settings(deadline=None)
@given(times, times, times, draws, st.booleans())
def test_renewal(begin: float, end: float, now: float, draw: float, fresh: bool) -> None:
    wait = renewal_wait(begin, end, now, draw, fresh=fresh)
    assert SHORTEST_SECONDS <= wait <= max(2 * WRONG_CLOCK_SECONDS, 0.551 * (end - begin))


@settings(deadline=None)
@given(st.floats(60, 1e8), st.floats(-1e8, 1e8), draws)
def test_a_fresh_certificate_is_renewed_before_it_expires_here(life: float, offset: float, draw: float) -> None:
    """By a clock that is off by ``offset``, for which the certificate is valid."""
    now = 2e9 + offset
    if now < 2e9 + life - 4 * SHORTEST_SECONDS:
        wait = renewal_wait(2e9, 2e9 + life, now, draw, fresh=True)
        assert now + wait < 2e9 + life
