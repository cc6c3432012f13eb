"""Whatever control answers, a rotation that is obeyed never claims what has expired, and never stops."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.identity.rotation import MAX_BACKOFF_SECONDS, Rotation, RotationStep, State

answers = st.one_of(
    st.just(None),
    st.tuples(st.floats(-100_000, 100, allow_nan=False), st.floats(-10, 100_000, allow_nan=False)),
)
rounds = st.lists(st.tuples(answers, st.floats(0, 50_000, allow_nan=False)), min_size=1, max_size=25)


@settings(max_examples=200, deadline=None)
@given(rounds, st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=5))
def test_a_rotation_that_is_obeyed(script: list[tuple[tuple[float, float] | None, float]], draws: list[float]) -> None:
    numbers = iter(range(10**9))
    one = Rotation("identity", lambda: draws[next(numbers) % len(draws)])
    now, expires = 0.0, None
    for answer, delay in script:
        action = one.next_action(now)
        if action.step is RotationStep.WAIT:
            assert action.at is not None, "no request is under way, so there is a time to wake up at"
            assert action.at > now
            assert expires is None or action.at <= expires, "it wakes for the expiry at the latest"
            now = action.at
            continue
        if action.step is RotationStep.EXPIRE:
            assert expires is not None and now >= expires
            one.expired(now)
            expires = None
            assert one.state is State.FAILED
            continue
        one.requested()
        now += delay
        if one.next_action(now).step is RotationStep.EXPIRE:
            one.expired(now)
            expires = None
        if answer is None:
            one.refused(now, "no")
            _check_backoff(one, now, expires)
        elif one.issued(now, now + answer[0], now + answer[1]):
            expires = now + answer[1]
            assert one.state is State.VALID
        else:
            assert now + answer[1] <= now
        assert one.usable(now) == (expires is not None and now < expires)


def _check_backoff(one: Rotation, now: float, expires: float | None) -> None:
    action = one.next_action(now)
    assert one.status(now).failures >= 1
    if expires is None:
        assert action.step is RotationStep.WAIT and action.at is not None and action.at - now <= MAX_BACKOFF_SECONDS
