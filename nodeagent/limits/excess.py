"""Who was refused because its share was used up: counted by limit and owner, and named in the log now and then."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Final

from nodeagent.limits.settings import Limits

MAX_OWNERS: Final = 256
"""Owners that are named; further ones are counted together as ``OTHERS``."""
OTHERS: Final = "others"
TELL_SECONDS: Final = 60.0
"""An owner that goes on is named in the log again after this."""
METRIC: Final = "nodemesh_limit_refusals_total"


class Excess:
    """One a process. ``clock`` is monotonic seconds; ``tell`` logs a line."""

    def __init__(
        self, limits: Limits | None = None, clock: Callable[[], float] = monotonic,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self.limits = limits or Limits()
        self._clock = clock
        self._tell = tell
        self._told: dict[tuple[str, str], float] = {}
        self._owners: set[str] = set()
        self.counts: dict[tuple[str, str], int] = {}
        """(name of the limit, owner) -> refusals."""

    def refused(self, limit: str, owner: str) -> str:
        """One more refusal by this setting; the text that says so, for a log line."""
        return self.abused(
            limit, owner, f"{owner} has used up its share (limits.{limit}: {getattr(self.limits, limit)})"
        )

    def abused(self, limit: str, owner: str, detail: str) -> str:
        """As ``refused``, for a bound that is no setting."""
        if owner not in self._owners:
            if len(self._owners) < MAX_OWNERS:
                self._owners.add(owner)
            else:
                owner = OTHERS
        key = limit, owner
        self.counts[key] = self.counts.get(key, 0) + 1
        now = self._clock()
        if key not in self._told or now - self._told[key] >= TELL_SECONDS:
            self._told[key] = now
            self._tell(f"{detail}; refused {self.counts[key]} times so far")
        return detail
