"""Guests of many owners under one roof: how many there may be, how many of one owner, and who gives way."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

Guest = TypeVar("Guest", bound=Hashable)


class Crowd(Generic[Guest]):
    """At most ``total`` guests, ``share`` of one owner; whoever lets guests in asks before. All calls take the same
    time, however many guests there are (but ``oldest`` with a condition that few fulfil).
    """

    def __init__(self, total: int, share: int) -> None:
        self.total = total
        self.share = share
        self._owners: dict[Guest, str] = {}
        self._by_owner: dict[str, dict[Guest, None]] = {}
        self._by_size: dict[int, dict[str, None]] = {}
        self._most = 0

    def __len__(self) -> int:
        return len(self._owners)

    def __contains__(self, guest: object) -> bool:
        return guest in self._owners

    def __iter__(self) -> Iterator[Guest]:
        return iter(self._owners)

    @property
    def full(self) -> bool:
        """Whether there is room for nobody."""
        return len(self._owners) >= self.total

    def used_up(self, owner: str) -> bool:
        """Whether this owner has its share."""
        return len(self._by_owner.get(owner, ())) >= self.share

    def size(self, owner: str) -> int:
        """Guests of this owner."""
        return len(self._by_owner.get(owner, ()))

    def enter(self, guest: Guest, owner: str) -> None:
        """One more, the youngest. Without effect on one that is in."""
        if guest in self._owners:
            return
        self._owners[guest] = owner
        theirs = self._by_owner.setdefault(owner, {})
        theirs[guest] = None
        self._resize(owner, len(theirs) - 1, len(theirs))

    def leave(self, guest: Guest) -> bool:
        """One fewer; whether it was in."""
        owner = self._owners.pop(guest, None)
        if owner is None:
            return False
        theirs = self._by_owner[owner]
        del theirs[guest]
        if not theirs:
            del self._by_owner[owner]
        self._resize(owner, len(theirs) + 1, len(theirs))
        return True

    def oldest(self, owner: str, where: Callable[[Guest], bool] = lambda _: True) -> Guest | None:
        """The guest of this owner that is in for longest, of those that fulfil the condition."""
        return next((guest for guest in self._by_owner.get(owner, ()) if where(guest)), None)

    def gives_way(self, owner: str, where: Callable[[Guest], bool] = lambda _: True) -> Guest | None:
        """Who has to leave before a guest of this owner enters: the oldest of its own where its share is used up, of
        whoever has most where all room is; None if there is room, or if nobody there fulfils the condition (ask
        ``full`` and ``used_up``).
        """
        if self.used_up(owner):
            return self.oldest(owner, where)
        return self.oldest(self.heaviest, where) if self.full else None

    @property
    def heaviest(self) -> str:
        """The owner of most guests; empty if there are none."""
        return next(iter(self._by_size[self._most])) if self._most else ""

    def _resize(self, owner: str, former: int, now: int) -> None:
        if former:
            level = self._by_size[former]
            del level[owner]
            if not level:
                del self._by_size[former]
        if now:
            self._by_size.setdefault(now, {})[owner] = None
        if now > self._most or self._most not in self._by_size:
            self._most = now
