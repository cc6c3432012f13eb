"""So many a second for each owner."""

from __future__ import annotations

from typing import Final

MAX_OWNERS: Final = 8192
"""Owners that are remembered; those whose allowance is whole are forgotten first, and then everybody."""


class Rates:
    """A bucket for each owner. Times are monotonic seconds."""

    def __init__(self, per_second: float, burst: float, owners: int = MAX_OWNERS) -> None:
        self._per_second = per_second
        self._burst = burst
        self._most = owners
        self._spent: dict[str, tuple[float, float]] = {}
        """Owner -> (what is left, when)."""

    def take(self, owner: str, now: float) -> bool:
        """Take one; False, and nothing is taken, where none is left."""
        left = self._left(owner, now)
        if left < 1:
            return False
        if owner not in self._spent and len(self._spent) >= self._most:
            self._forget(now)
        self._spent[owner] = (left - 1, now)
        return True

    def _left(self, owner: str, now: float) -> float:
        held = self._spent.get(owner)
        if held is None:
            return self._burst
        left, since = held
        return min(self._burst, left + (now - since) * self._per_second)

    def _forget(self, now: float) -> None:
        self._spent = {owner: held for owner, held in self._spent.items() if self._left(owner, now) < self._burst}
        if len(self._spent) >= self._most:
            self._spent.clear()
