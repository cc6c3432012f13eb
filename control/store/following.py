"""Watching a store that can read its own log: wait for a commit, then read what is new. No queue, hence nothing to
overflow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from control.store.base import MAX_COMMITS_PER_POLL, Commit

ReadLog = Callable[[str, int, int], tuple[int, Sequence[Commit]]]
"""(prefix, after, limit of commits) -> (revision read up to, commits that touched the prefix); may raise Compacted."""


class CommitSignal:
    """Wakes waiters at every commit; a wait for a revision that is already committed returns at once."""

    def __init__(self, revision: int) -> None:
        self._condition = threading.Condition()
        self._revision = revision
        self._closed = False

    def notify(self, revision: int) -> None:
        """Announce that a commit with this revision can be read."""
        with self._condition:
            self._revision = max(self._revision, revision)
            self._condition.notify_all()

    def close(self) -> None:
        """Release all waiters for good."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def recheck(self) -> None:
        """Make waiters evaluate their ``stopped`` again."""
        with self._condition:
            self._condition.notify_all()

    def wait_after(self, revision: int, timeout: float, stopped: Callable[[], bool]) -> bool:
        """Wait for a commit after ``revision``; False when time is up, the store is closed, or ``stopped()`` holds."""
        with self._condition:
            self._condition.wait_for(lambda: self._closed or stopped() or self._revision > revision, timeout)
            return self._revision > revision and not self._closed and not stopped()


class FollowingWatch:
    """A ``base.Watch`` over a log."""

    def __init__(self, committed: CommitSignal, read: ReadLog, prefix: str, after: int) -> None:
        self._committed = committed
        self._read = read
        self._prefix = prefix
        self._after = after
        self._closed = False

    @property
    def revision(self) -> int:
        return self._after

    def poll(self, timeout: float) -> Sequence[Commit]:
        if self._closed or not self._committed.wait_after(self._after, timeout, lambda: self._closed):
            return ()
        self._after, commits = self._read(self._prefix, self._after, MAX_COMMITS_PER_POLL)
        return commits

    def close(self) -> None:
        self._closed = True
        self._committed.recheck()
