"""Log lines of each source: so many a second, then one with the sum."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

WINDOW_SECONDS: Final = 1.0
MAX_SOURCES: Final = 64
"""Sources that have lines of their own in one second; further ones share what one has."""
OTHERS: Final = "others"
MAX_KINDS: Final = 16
"""Kinds of lines that one sum tells apart."""


@dataclass(slots=True)
class Suppressed:
    """Lines of one source that were not written."""

    source: str
    since: float
    written: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    """What they said -> how many."""

    @property
    def count(self) -> int:
        """How many."""
        return self.kinds.total()

    def described(self) -> str:
        """The kinds with their counts, most frequent first."""
        return ",".join(f"{kind}:{count}" for kind, count in self.kinds.most_common())


class Lines:
    """Of one log. Times are monotonic seconds."""

    def __init__(self, per_second: int, sources: int = MAX_SOURCES) -> None:
        self._per_second = per_second
        self._most = sources
        self._windows: dict[str, Suppressed] = {}
        self._over: list[Suppressed] = []

    def allow(self, source: str, kind: str, now: float) -> bool:
        """Whether to write a line of this source now. One that is not written is part of the source's sum."""
        window = self._windows.get(source)
        if window is None or now - window.since >= WINDOW_SECONDS:
            window = self._open(source, now)
        if window.written < self._per_second:
            window.written += 1
            return True
        window.kinds[kind if kind in window.kinds or len(window.kinds) < MAX_KINDS else OTHERS] += 1
        return False

    @property
    def owing(self) -> bool:
        """Whether lines were left out of which no sum was given yet."""
        return bool(self._over) or any(window.kinds for window in self._windows.values())

    def sums(self, now: float, *, last: bool = False) -> list[Suppressed]:
        """What was not written in seconds that are over (``last``: so far); each is given once."""
        self._close(now, all_of_them=last)
        over, self._over = self._over, []
        return over

    def _open(self, source: str, now: float) -> Suppressed:
        if source not in self._windows and len(self._windows) >= self._most:
            self._close(now, all_of_them=False)
            if len(self._windows) >= self._most:
                source = OTHERS
        window = self._windows.get(source)
        if window is None or now - window.since >= WINDOW_SECONDS:
            if window is not None and window.kinds:
                self._over.append(window)
            window = self._windows[source] = Suppressed(source, now)
        return window

    def _close(self, now: float, *, all_of_them: bool) -> None:
        for source, window in list(self._windows.items()):
            if all_of_them or now - window.since >= WINDOW_SECONDS:
                del self._windows[source]
                if window.kinds:
                    self._over.append(window)
