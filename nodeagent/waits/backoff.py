"""Ever longer waits between attempts that fail."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

FACTOR: Final = 2.0
JITTER: Final = 0.5


class Backoff:
    """Waits of ``first`` seconds, then ``factor`` times longer after each further failure, up to ``longest``.

    Jitter shortens each wait by a random share of up to ``jitter``, so every wait is between ``floor`` and ``longest``.
    ``random`` draws from [0, 1). ValueError for bounds that would allow a wait of 0 or without end.
    """

    __slots__ = ("_doublings", "_factor", "_first", "_jitter", "_random", "failures", "longest")

    def __init__(
        self,
        first: float,
        longest: float,
        random: Callable[[], float],
        *,
        factor: float = FACTOR,
        jitter: float = JITTER,
    ) -> None:
        if not (0 < first <= longest < math.inf and 1 < factor < math.inf and 0 <= jitter < 1):
            raise ValueError(
                f"a backoff from {first} to {longest} s, times {factor}, less up to {jitter}, has no bounds"
            )
        self._first, self.longest = first, longest
        self._factor, self._jitter = factor, jitter
        self._random = random
        self._doublings = math.ceil(math.log(longest / first, factor))
        self.failures = 0
        """Failures since the last ``reset``."""

    @property
    def floor(self) -> float:
        """The shortest possible wait."""
        return self._first * (1.0 - self._jitter)

    def wait(self, failures: int) -> float:
        """Seconds to wait after this many failures in a row, for callers that count themselves."""
        # the exponent is bounded: factor ** failures would overflow after a long outage
        full = min(self.longest, self._first * self._factor ** min(max(0, failures - 1), self._doublings))
        return full * (1.0 - self._jitter * self._random())

    def next(self) -> float:
        """Count a failure; seconds to wait before the next attempt."""
        self.failures += 1
        return self.wait(self.failures)

    def reset(self) -> None:
        """An attempt succeeded: the next failure is the first again."""
        self.failures = 0
