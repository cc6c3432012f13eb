"""Which endpoint takes the next connection: power of two choices by live connections, failing endpoints left out for
a while.

Pure: the clock and the source of randomness are passed in. Counts are those of one worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final, Protocol, TypeVar

from nodeagent.waits.backoff import Backoff

FAILURES_TO_EJECT: Final = 3
FIRST_EJECTION_SECONDS: Final = 1.0
LONGEST_EJECTION_SECONDS: Final = 60.0
MAX_FAILING: Final = 8192
"""Endpoints whose failures are remembered; the one that first failed longest ago is given another chance."""


class Endpoint(Protocol):
    """A workload, or a place outside the mesh."""

    @property
    def uid(self) -> str:
        """What it is known by."""


E = TypeVar("E", bound=Endpoint)


class Balancer:
    """Live connections and recent failures by the uid of the endpoint."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._backoff = Backoff(FIRST_EJECTION_SECONDS, LONGEST_EJECTION_SECONDS, random.random)
        self._live: dict[str, int] = {}
        self._failures: dict[str, int] = {}
        self._ejected_until: dict[str, float] = {}

    def choose(self, endpoints: Sequence[E], now: float) -> E | None:
        """The better of two random endpoints; None if there is none at all.

        If every endpoint is ejected all are tried again: a guess beats a refusal.
        """
        if len(endpoints) == 1:
            return endpoints[0]
        if self._ejected_until:
            endpoints = [e for e in endpoints if self._ejected_until.get(e.uid, 0.0) <= now] or endpoints
        if not endpoints:
            return None
        if len(endpoints) == 1:
            return endpoints[0]
        first, second = self._random.sample(endpoints, 2)
        return first if self.live(first.uid) <= self.live(second.uid) else second

    def live(self, uid: str) -> int:
        """Connections that are open to the endpoint, or being opened."""
        return self._live.get(uid, 0)

    def started(self, uid: str) -> None:
        """A connection to the endpoint was begun."""
        self._live[uid] = self._live.get(uid, 0) + 1

    def ended(self, uid: str) -> None:
        """A connection that was ``started`` is over."""
        left = self._live.get(uid, 0) - 1
        if left > 0:
            self._live[uid] = left
        else:
            self._live.pop(uid, None)

    def succeeded(self, uid: str) -> None:
        """The endpoint accepted a connection: it is trusted again."""
        self._failures.pop(uid, None)
        self._ejected_until.pop(uid, None)

    def failed(self, uid: str, now: float) -> None:
        """The endpoint could not be connected to; after several in a row it is left out, longer each time."""
        failures = self._failures[uid] = self._failures.get(uid, 0) + 1
        if len(self._failures) > MAX_FAILING:
            self.succeeded(next(iter(self._failures)))
        if failures < FAILURES_TO_EJECT:
            return
        self._ejected_until[uid] = now + self._backoff.wait(failures - FAILURES_TO_EJECT + 1)

    def forget(self, uid: str) -> None:
        """The workload is gone from the mesh."""
        self.succeeded(uid)
        self._live.pop(uid, None)
