"""A bound on failures by address: so many at once, then so many a minute."""

from __future__ import annotations

from collections import OrderedDict

BURST = 10
PER_SECOND = 10 / 60
MAX_ADDRESSES = 4096
"""Remembered; the one that failed longest ago is forgotten first."""


class Throttle:
    """Token buckets by caller address. Time is passed in."""

    def __init__(self, burst: int = BURST, per_second: float = PER_SECOND) -> None:
        self._burst = burst
        self._per_second = per_second
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_needed(self, address: str, now: float) -> float:
        """Seconds until this address may try again; 0: now."""
        left = self._left(address, now)
        return 0.0 if left >= 1 else (1 - left) / self._per_second

    def failed(self, address: str, now: float) -> None:
        """Count a failure."""
        self._buckets[address] = (max(0.0, self._left(address, now) - 1), now)
        self._buckets.move_to_end(address)
        if len(self._buckets) > MAX_ADDRESSES:
            self._buckets.popitem(last=False)

    def _left(self, address: str, now: float) -> float:
        left, at = self._buckets.get(address, (float(self._burst), now))
        return min(float(self._burst), left + max(0.0, now - at) * self._per_second)
