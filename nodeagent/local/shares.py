"""A bound on how much of something is in use at once, with a share for each user of it. Pure."""

from __future__ import annotations

from collections import Counter


class Shares:
    """``what`` names it in refusals; ``total`` bounds all of it, ``each`` what one user has, ``others`` what all users
    together have that are not privileged: the rest is left for those.
    """

    def __init__(self, what: str, *, total: int, each: int, others: int) -> None:
        self._what = what
        self._total = total
        self._each = each
        self._others = others
        self._used: Counter[str] = Counter()
        self._unprivileged = 0

    def take(self, user: str, *, privileged: bool) -> str:
        """Take one, to be given back; or why it is refused."""
        if self._used.total() >= self._total:
            return f"{self._total} {self._what} at once are the limit of this agent, and all are in use"
        if self._used[user] >= self._each:
            return f"{self._each} {self._what} at once are the limit for {user}; wait until some of them have ended"
        if not privileged and self._unprivileged >= self._others:
            return f"{self._others} {self._what} at once are the limit for all users but root, and all are in use"
        self._used[user] += 1
        self._unprivileged += not privileged
        return ""

    def give_back(self, user: str, *, privileged: bool) -> None:
        """One that was taken is not in use any more."""
        self._unprivileged -= not privileged
        self._used[user] -= 1
        if not self._used[user]:
            del self._used[user]

    def __len__(self) -> int:
        return self._used.total()
