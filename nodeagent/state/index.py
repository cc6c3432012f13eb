"""Lookups from a key to the objects that have it, kept while objects come and go.

A key may belong to several objects: workloads of a host network share its addresses, and a name that is used again
has its old and its new owner for the length of a batch, in any order. So removing one owner never loses the other.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Index(Generic[K, V]):
    """Key -> uid -> object."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: dict[K, dict[str, V]] = {}

    def add(self, keys: Iterable[K], uid: str, value: V) -> None:
        """File the object under every key, in place of an object of the same uid."""
        for key in keys:
            self._entries.setdefault(key, {})[uid] = value

    def remove(self, keys: Iterable[K], uid: str) -> None:
        """Take the object away from every key; those it is not filed under are passed over."""
        for key in keys:
            owners = self._entries.get(key)
            if owners is None:
                continue
            owners.pop(uid, None)
            if not owners:
                del self._entries[key]

    def all(self, key: K) -> tuple[V, ...]:
        """Every object with that key, oldest first."""
        owners = self._entries.get(key)
        return tuple(owners.values()) if owners else ()

    def only(self, key: K) -> V | None:
        """The object with that key; None if there is none, or more than one: a guess is not an answer."""
        owners = self._entries.get(key)
        if owners is None or len(owners) != 1:
            return None
        (value,) = owners.values()
        return value

    def __len__(self) -> int:
        return len(self._entries)
