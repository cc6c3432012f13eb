"""The dynamic table of one direction (RFC 7541, sections 2.3.2 and 4)."""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64

from nodeagent.http2.hpack.field import Field
from nodeagent.http2.hpack.static import STATIC

DEFAULT_SIZE: Final = 4096
"""Octets of a table on a new connection (RFC 9113, 6.5.2)."""
_COMPACT: Final = 64
_NONE: Final = STATIC[0]


class DynamicTable:
    """Fields in the order of their insertion, numbered from 1; the oldest are dropped."""

    def __init__(self) -> None:
        self.limit: i64 = DEFAULT_SIZE
        """Octets that it may have."""
        self.size: i64 = 0
        """Octets that it has."""
        self.inserted: i64 = 0
        """The number of the newest entry."""
        self._entries: list[Field] = []
        self._first: i64 = 0  # what is before it was dropped

    def get(self, age: i64) -> Field | None:
        """An entry; 0 is the newest. None where there is none."""
        place: i64 = len(self._entries) - 1 - age
        return self._entries[place] if self._first <= place and age >= 0 else None

    def drop(self) -> Field:
        """Take the oldest entry out; there must be one."""
        entries, first = self._entries, self._first
        oldest = entries[first]
        entries[first] = _NONE
        self.size -= oldest.size
        self._first = first + 1
        if self._first >= _COMPACT:
            del entries[: self._first]
            self._first = 0
        return oldest

    def add(self, field: Field) -> None:
        """Insert an entry for which there is room."""
        self._entries.append(field)
        self.size += field.size
        self.inserted += 1

    def insert(self, field: Field) -> None:
        """Insert an entry, drop older ones for it; one over the limit empties the table (4.4)."""
        self.shrink(self.limit - field.size)
        if field.size <= self.limit:
            self.add(field)

    def shrink(self, size: i64) -> None:
        """Drop entries until there are ``size`` octets at most, or none."""
        while self.size > size and self.size:
            self.drop()
