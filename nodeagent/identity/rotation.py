"""When to ask for an identity's SVID: a table of states, and the times that go with them. Pure: the clock is passed in.

    WANTED --requested--> REQUESTED --issued--> VALID --requested--> RENEWING --issued--> VALID
                             | refused             | expired             | refused: VALID (the old one is kept)
                             v                     v                     | expired: REQUESTED
                           FAILED --requested-->   FAILED                v

An SVID is renewed at half its life, give or take a jitter (``waits.renewal``). A refusal keeps the present SVID, and
the next attempt waits longer each time (``waits.backoff``). An SVID that has expired is unusable from that second:
connections of the workload are refused with the reason, never made without identity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from nodeagent.waits.backoff import Backoff
from nodeagent.waits.renewal import remaining, renewal_wait

BACKOFF_SECONDS = 1.0
"""Wait after the first refusal."""
MAX_BACKOFF_SECONDS = 60.0
MAX_ERROR_CHARACTERS = 500


class State(Enum):
    """Where an identity stands."""

    WANTED = "wanted"
    """No SVID, and nobody was asked."""
    REQUESTED = "requested"
    """No SVID; a request is under way."""
    VALID = "valid"
    """An SVID; a renewal may have failed and waits for its next attempt."""
    RENEWING = "renewing"
    """An SVID, and a request for the next one is under way."""
    FAILED = "failed"
    """No SVID: the request was refused, or the SVID expired. Unusable until one comes."""


class RotationEvent(Enum):
    """What can happen to an identity."""

    REQUESTED = "requested"
    ISSUED = "issued"
    REFUSED = "refused"
    EXPIRED = "expired"


TRANSITIONS: dict[State, dict[RotationEvent, State]] = {
    # ISSUED without a request: an SVID kept from before a restart
    State.WANTED: {RotationEvent.REQUESTED: State.REQUESTED, RotationEvent.ISSUED: State.VALID},
    State.REQUESTED: {RotationEvent.ISSUED: State.VALID, RotationEvent.REFUSED: State.FAILED},
    State.VALID: {RotationEvent.REQUESTED: State.RENEWING, RotationEvent.EXPIRED: State.FAILED},
    State.RENEWING: {
        RotationEvent.ISSUED: State.VALID,
        RotationEvent.REFUSED: State.VALID,
        RotationEvent.EXPIRED: State.REQUESTED,
    },
    State.FAILED: {RotationEvent.REQUESTED: State.REQUESTED},
}
"""What is not here is a defect of the caller."""


class RotationError(Exception):
    """An event that cannot happen in this state."""


class RotationStep(Enum):
    """What to do."""

    REQUEST = "request"
    """Ask for an SVID, and call ``requested``."""
    EXPIRE = "expire"
    """Take the SVID away from whoever uses it, and call ``expired``."""
    WAIT = "wait"
    """Nothing before ``Action.at``."""


@dataclass(frozen=True, slots=True)
class Action:
    """The next thing to do for an identity, and when (seconds since 1970)."""

    step: RotationStep
    at: float | None
    """When to ask again at the latest, for WAIT; None: after the answer to the request that is under way."""


@dataclass(frozen=True, slots=True)
class IdentityStatus:
    """For ``nodeagent status``."""

    identity: str
    state: State
    usable: bool
    expires: float | None
    failures: int
    """Refusals since the last SVID."""
    last_error: str
    next_attempt: float | None


class Rotation:
    """One identity. Times are seconds since 1970; ``jitter`` draws from [0, 1)."""

    def __init__(self, identity: str, jitter: Callable[[], float]) -> None:
        self.identity = identity
        self._jitter = jitter
        self._state = State.WANTED
        self._expires: float | None = None
        self._next_attempt: float | None = None
        self._wait = 0.0
        """How long the wait for the next attempt was when it began."""
        self._backoff = Backoff(BACKOFF_SECONDS, MAX_BACKOFF_SECONDS, jitter)
        self._last_error = ""

    @property
    def state(self) -> State:
        """Where it stands."""
        return self._state

    def _fire(self, event: RotationEvent) -> None:
        new = TRANSITIONS[self._state].get(event)
        if new is None:
            raise RotationError(f"{self.identity}: {event.value} cannot happen while {self._state.value}")
        self._state = new

    def next_action(self, now: float) -> Action:
        """What to do now, or until when to wait."""
        if self._expires is not None and now >= self._expires:
            return Action(RotationStep.EXPIRE, now)
        if self._state in (State.REQUESTED, State.RENEWING):
            return Action(RotationStep.WAIT, self._expires)
        if self._state is State.WANTED or self._next_attempt is None:
            return Action(RotationStep.REQUEST, now)
        if not remaining(self._next_attempt, self._wait, now):
            return Action(RotationStep.REQUEST, now)
        wake = self._next_attempt if self._expires is None else min(self._next_attempt, self._expires)
        return Action(RotationStep.WAIT, wake)

    def requested(self) -> None:
        """A request was sent. Its sender bounds its time and calls ``issued`` or ``refused`` in the end."""
        self._fire(RotationEvent.REQUESTED)

    def issued(self, now: float, not_before: float, not_after: float) -> bool:
        """An SVID came; False if it is of no use (expired on arrival): that counts as a refusal."""
        if not_after <= now and self._state is State.WANTED:
            return False
        if not_after <= now:
            self.refused(now, "the certificate had expired when it came; compare this node's clock with control's")
            return False
        fresh = self._state is not State.WANTED
        self._fire(RotationEvent.ISSUED)
        self._expires = not_after
        self._plan(now, renewal_wait(not_before, not_after, now, self._jitter(), fresh=fresh))
        self._backoff.reset()
        self._last_error = ""
        return True

    def refused(self, now: float, error: str) -> None:
        """No SVID came. What there is stays; the next attempt comes later each time."""
        self._fire(RotationEvent.REFUSED)
        self._last_error = error[:MAX_ERROR_CHARACTERS]
        self._plan(now, self._backoff.next())

    def _plan(self, now: float, wait: float) -> None:
        self._wait, self._next_attempt = wait, now + wait

    def expired(self, now: float) -> None:
        """The SVID's time is over; the identity cannot be used."""
        self._fire(RotationEvent.EXPIRED)
        self._expires = None
        if not self._last_error:
            self._last_error = "the certificate expired before a new one came"
        if not self._backoff.failures:
            self._plan(now, 0.0)

    def usable(self, now: float) -> bool:
        """Whether there is an SVID that has not expired."""
        return self._expires is not None and now < self._expires

    def status(self, now: float) -> IdentityStatus:
        """A snapshot for operators."""
        return IdentityStatus(
            identity=self.identity,
            state=self._state,
            usable=self.usable(now),
            expires=self._expires,
            failures=self._backoff.failures,
            last_error=self._last_error,
            next_attempt=None if self._state in (State.REQUESTED, State.RENEWING) else self._next_attempt,
        )
