"""When an SVID is asked for, kept, and given up."""

from __future__ import annotations

import itertools

import pytest

from nodeagent.identity.rotation import (
    BACKOFF_SECONDS,
    MAX_BACKOFF_SECONDS,
    MAX_ERROR_CHARACTERS,
    TRANSITIONS,
    Action,
    Rotation,
    RotationError,
    RotationEvent,
    RotationStep,
    State,
)
from nodeagent.waits.renewal import SOON_SECONDS

T0 = 1_700_000_000.0
DAY = 86400.0


def rotation(jitter: float = 0.5) -> Rotation:
    return Rotation("spiffe://mesh.internal/ns/shop/sa/web", lambda: jitter)


def issued(jitter: float = 0.5, life: float = DAY) -> Rotation:
    one = rotation(jitter)
    one.requested()
    assert one.issued(T0, T0, T0 + life)
    return one


def test_a_wanted_identity_is_asked_for_at_once_and_only_once() -> None:
    one = rotation()
    assert one.next_action(T0) == Action(RotationStep.REQUEST, T0)
    one.requested()
    assert one.next_action(T0 + 1) == Action(RotationStep.WAIT, None)
    assert not one.usable(T0)


@pytest.mark.parametrize(("jitter", "share"), [(0.0, 0.45), (0.5, 0.5), (0.999999, 0.55)])
def test_it_is_renewed_about_half_life(jitter: float, share: float) -> None:
    one = issued(jitter)
    action = one.next_action(T0)
    assert action.step is RotationStep.WAIT and action.at == pytest.approx(T0 + share * DAY, abs=1)
    assert action.at is not None
    assert one.next_action(action.at - 1).step is RotationStep.WAIT
    assert one.next_action(action.at).step is RotationStep.REQUEST
    assert one.usable(T0 + DAY - 1) and not one.usable(T0 + DAY)


def test_jitter_is_drawn_once_for_an_svid() -> None:
    draws = itertools.count()
    one = Rotation("i", lambda: next(draws) / 10)
    one.requested()
    one.issued(T0, T0, T0 + DAY)
    assert {one.next_action(T0 + n).at for n in range(5)} == {one.next_action(T0).at}
    assert next(draws) == 1


def test_an_svid_from_before_a_restart_is_taken_if_it_is_still_good() -> None:
    one = rotation()
    assert not one.issued(T0, T0 - DAY, T0), "expired: as if it were not there"
    assert one.state is State.WANTED and one.next_action(T0).step is RotationStep.REQUEST
    assert one.issued(T0, T0 - DAY, T0 + 60)
    assert one.usable(T0)
    assert one.next_action(T0 + 1.5 * SOON_SECONDS).step is RotationStep.REQUEST, "half its life is long over"


def test_a_refusal_keeps_the_old_one_and_says_so() -> None:
    one = issued()
    one.requested()
    assert one.state is State.RENEWING and one.usable(T0 + DAY / 2)
    one.refused(T0 + DAY / 2, "control is not reachable")
    status = one.status(T0 + DAY / 2)
    assert (status.state, status.usable, status.failures) == (State.VALID, True, 1)
    assert status.last_error == "control is not reachable" and status.expires == T0 + DAY


def test_refusals_back_off_up_to_a_cap_and_a_success_forgets_them() -> None:
    one, now, waits = rotation(0.0), T0, []
    for _ in range(40):
        one.requested()
        one.refused(now, "no")
        at = one.next_action(now).at
        assert at is not None and one.next_action(now).step is RotationStep.WAIT
        waits.append(at - now)
        now = at
        assert one.next_action(now).step is RotationStep.REQUEST
    assert waits[:4] == [BACKOFF_SECONDS, 2 * BACKOFF_SECONDS, 4 * BACKOFF_SECONDS, 8 * BACKOFF_SECONDS]
    assert waits[-1] == max(waits) == MAX_BACKOFF_SECONDS
    one.requested()
    one.issued(now, now, now + DAY)
    assert one.status(now).failures == 0 and one.status(now).last_error == ""


def test_backoff_has_jitter() -> None:
    early, late = rotation(0.99), rotation(0.0)
    for one in (early, late):
        one.requested()
        one.refused(T0, "no")
    first, second = early.next_action(T0).at, late.next_action(T0).at
    assert first is not None and second is not None and T0 + BACKOFF_SECONDS / 2 < first < second


def test_expiry_makes_it_unusable_and_is_told_first() -> None:
    one = issued()
    one.requested()
    one.refused(T0 + DAY - 1, "no")
    assert one.next_action(T0 + DAY - 1).at == T0 + DAY - 1 + BACKOFF_SECONDS * 0.75
    assert one.next_action(T0 + DAY) == Action(RotationStep.EXPIRE, T0 + DAY)
    one.expired(T0 + DAY)
    status = one.status(T0 + DAY)
    assert (status.state, status.usable, status.last_error) == (State.FAILED, False, "no")
    assert one.next_action(T0 + DAY + 1).step is RotationStep.REQUEST


def test_a_wait_never_sleeps_over_the_expiry() -> None:
    one = issued()
    one.requested()
    one.refused(T0 + DAY - 0.1, "no")
    assert one.next_action(T0 + DAY - 0.1) == Action(RotationStep.WAIT, T0 + DAY)
    one = issued()
    one.requested()
    assert one.next_action(T0 + 1) == Action(RotationStep.WAIT, T0 + DAY), "nor while an answer is awaited"


def test_expiry_while_a_renewal_is_under_way_waits_for_its_answer() -> None:
    one = issued()
    one.requested()
    one.expired(T0 + DAY)
    assert one.state is State.REQUESTED and not one.usable(T0 + DAY)
    assert one.next_action(T0 + DAY) == Action(RotationStep.WAIT, None)
    one.issued(T0 + DAY, T0 + DAY, T0 + 2 * DAY)
    assert one.usable(T0 + DAY)


def test_an_expiry_without_a_refusal_asks_at_once() -> None:
    one = issued()
    one.expired(T0 + DAY)
    assert one.next_action(T0 + DAY).step is RotationStep.REQUEST
    assert "expired" in one.status(T0 + DAY).last_error


def test_an_svid_that_is_expired_when_it_comes_is_a_refusal_that_points_to_the_clocks() -> None:
    one = rotation()
    one.requested()
    assert not one.issued(T0, T0 - DAY, T0 - 1)
    status = one.status(T0)
    assert (status.state, status.failures) == (State.FAILED, 1) and "clock" in status.last_error


def test_a_clock_that_is_far_ahead_makes_no_storm() -> None:
    one = rotation()
    one.requested()
    one.issued(T0, T0 - DAY, T0 + 60)
    assert one.next_action(T0) == Action(RotationStep.WAIT, T0 + 30), "half of what is left by this clock"


def test_a_clock_that_was_set_back_does_not_put_off_a_renewal() -> None:
    one = issued()
    assert one.next_action(T0 - DAY).step is RotationStep.REQUEST


def test_a_clock_that_was_set_back_does_not_stretch_a_backoff() -> None:
    one = rotation()
    one.requested()
    one.refused(T0, "no")
    assert one.next_action(T0 - DAY).step is RotationStep.REQUEST


def test_errors_are_bounded() -> None:
    one = rotation()
    one.requested()
    one.refused(T0, "x" * 100_000)
    assert len(one.status(T0).last_error) == MAX_ERROR_CHARACTERS


REACH: dict[State, tuple[RotationEvent, ...]] = {
    State.WANTED: (),
    State.REQUESTED: (RotationEvent.REQUESTED,),
    State.VALID: (RotationEvent.ISSUED,),
    State.RENEWING: (RotationEvent.ISSUED, RotationEvent.REQUESTED),
    State.FAILED: (RotationEvent.REQUESTED, RotationEvent.REFUSED),
}


def fire(one: Rotation, event: RotationEvent) -> None:
    match event:
        case RotationEvent.REQUESTED:
            one.requested()
        case RotationEvent.ISSUED:
            one.issued(T0, T0, T0 + DAY)
        case RotationEvent.REFUSED:
            one.refused(T0, "no")
        case RotationEvent.EXPIRED:
            one.expired(T0 + DAY)


@pytest.mark.parametrize(
    ("state", "event"), list(itertools.product(State, RotationEvent)), ids=lambda value: value.name
)
def test_the_table_is_what_happens_and_the_rest_is_an_error(state: State, event: RotationEvent) -> None:
    one = rotation()
    for step in REACH[state]:
        fire(one, step)
    assert one.state is state
    expected = TRANSITIONS[state].get(event)
    if expected is None:
        with pytest.raises(RotationError, match=f"{event.value} cannot happen while {state.value}"):
            fire(one, event)
        assert one.state is state
    else:
        fire(one, event)
        assert one.state is expected


def test_a_short_lived_certificate_that_is_dated_back_is_not_renewed_at_once() -> None:
    one = Rotation("spiffe://td/ns/a/sa/b", lambda: 0.5)
    one.requested()
    assert one.issued(T0, T0 - 60.0, T0 + 30.0)
    action = one.next_action(T0 + 1.0)
    assert action.step is RotationStep.WAIT
    assert action.at == pytest.approx(T0 + 15.0)
