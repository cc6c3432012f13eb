"""Lookups from a key to the uids of the objects that have it, kept while objects come and go.

A key may belong to several objects: workloads of a host network share its addresses, and a name that is used again has
its old and its new owner for the length of a batch, in any order. Removing one owner never loses the other.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Index(Generic[K]):
    """Key -> uids. Most keys have one owner: its uid is the entry then, and a dict otherwise."""

    __slots__ = ("_entries", "_own")

    def __init__(self) -> None:
        self._entries: dict[K, str | dict[str, None]] = {}
        self._own: set[K] | None = None
        """Keys of which the dict of owners may be written; None: all of them."""

    def copy(self) -> Index[K]:
        """An index that can be changed without a trace in this one. This one must not change any more."""
        other: Index[K] = Index()
        other._entries, other._own = self._entries.copy(), set()
        return other

    def settle(self) -> None:
        """The index that this is a copy of is not used any more."""
        self._own = None

    def replace(self, uid: str, old: Sequence[K], new: Sequence[K]) -> None:
        """The object had the ``old`` keys and has the ``new`` ones. Keys that it keeps cost nothing but a
        comparison."""
        before, after = set(old), set(new)
        for key in old:
            if key not in after:
                self._remove(key, uid)
        for key in new:
            if key not in before:
                self._add(key, uid)

    def _add(self, key: K, uid: str) -> None:
        owners = self._entries.get(key)
        if owners is None:
            self._entries[key] = uid
        elif isinstance(owners, dict):
            self._writable(key, owners)[uid] = None
        elif owners != uid:
            self._entries[key] = {owners: None, uid: None}
            if self._own is not None:
                self._own.add(key)

    def _remove(self, key: K, uid: str) -> None:
        owners = self._entries.get(key)
        if isinstance(owners, dict):
            left = self._writable(key, owners)
            left.pop(uid, None)
            if len(left) == 1:
                (self._entries[key],) = left
        elif owners == uid:
            del self._entries[key]

    def _writable(self, key: K, owners: dict[str, None]) -> dict[str, None]:
        if self._own is None or key in self._own:
            return owners
        self._own.add(key)
        copied = self._entries[key] = owners.copy()
        return copied

    def all(self, key: K) -> tuple[str, ...]:
        """The uid of every object with that key, oldest first."""
        owners = self._entries.get(key)
        if owners is None:
            return ()
        return tuple(owners) if isinstance(owners, dict) else (owners,)

    def only(self, key: K) -> str | None:
        """The uid of the object with that key; None if there is none, or more than one: a guess is not an answer."""
        owners = self._entries.get(key)
        return None if isinstance(owners, dict) else owners

    def __len__(self) -> int:
        return len(self._entries)
