"""How many young streams that carried nothing a peer may reset, against time (rapid reset, CVE-2023-44487): each costs
us a dial, and the peer nothing.
"""

from __future__ import annotations

from nodeagent.http2.limits import EMPTY_RESETS_A_SECOND, MAX_EMPTY_RESETS


class ResetBudget:
    """A bucket. Connections of one peer may share one. No clock: the owner refills it."""

    __slots__ = ("_burst", "_left", "_per_second")

    def __init__(self, burst: float = MAX_EMPTY_RESETS, per_second: float = EMPTY_RESETS_A_SECOND) -> None:
        self._burst = burst
        self._per_second = per_second
        self._left = burst

    @property
    def whole(self) -> bool:
        """Whether nothing of it is spent."""
        return self._left >= self._burst

    def spend(self) -> bool:
        """One more reset; False if there have been too many."""
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def refill(self, seconds: float) -> None:
        """So much time has passed."""
        self._left = min(self._burst, self._left + seconds * self._per_second)
