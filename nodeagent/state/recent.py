"""What changed lately, for readers that keep something derived from the state and look at it now and then."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Final

from nodeagent.state.accept import Key

MAX_REMEMBERED: Final = 4096
"""Changed objects that are remembered; a reader that missed more looks at everything."""
MAX_BATCHES: Final = 1024


class RecentChanges:
    """The keys that the last batches changed. A reader remembers the number up to which it has looked."""

    def __init__(self) -> None:
        self.number = 0
        """Batches so far."""
        self._batches: deque[Collection[Key]] = deque()
        self._size = 0

    def add(self, changed: Collection[Key]) -> None:
        """A batch changed these."""
        self.number += 1
        self._batches.append(changed)
        self._size += len(changed)
        while self._size > MAX_REMEMBERED or len(self._batches) > MAX_BATCHES:
            self._size -= len(self._batches.popleft())

    def since(self, number: int) -> list[Key] | None:
        """The keys that changed after so many batches; None: not known any more, it may be any."""
        missed = self.number - number
        if missed > len(self._batches):
            return None
        batches = list(self._batches)[len(self._batches) - missed :]
        return list(dict.fromkeys(key for batch in batches for key in batch))
