"""Our header blocks, written (RFC 7541, section 6).

Which fields go into the table is the fields' affair (``Field.hint``): a field that its sender indexed is indexed for
its receiver too. Strings are Huffman coded only where that is asked for: the shorter block costs more than it saves on
the links of a mesh, and literals that are not coded are kept with their fields.
"""

from __future__ import annotations

from mypy_extensions import i64

from nodeagent.http2.hpack.field import INDEX, WHOLE, Field
from nodeagent.http2.hpack.octets import SIZE_UPDATE, inserted, integer, literal, reference
from nodeagent.http2.hpack.static import FIRST_DYNAMIC, STATIC_INDEX
from nodeagent.http2.hpack.table import DynamicTable


class BlockEncoder:
    """Our table, as the peer follows it."""

    def __init__(self, *, huffman: bool = False) -> None:
        self._huffman = huffman
        self._table = DynamicTable()
        self._numbers: dict[Field, int] = {}  # of what is in the table
        self._smallest: i64 = -1  # size that the table was given since the last block; -1: none
        self._last: i64 = 0

    def resize(self, size: int) -> None:
        """The table has at most so many octets from the next block on. However often that changes between two blocks,
        the smallest and the last size are announced (RFC 7541, 4.2).
        """
        self._smallest = size if self._smallest < 0 else min(self._smallest, size)
        self._last = size

    def encode(self, fields: list[Field]) -> bytes:
        """The block of a header list."""
        parts: list[bytes] = []
        if self._smallest >= 0:
            self._announce(parts)
        newest: i64 = FIRST_DYNAMIC + self._table.inserted
        for field in fields:
            octets = field.literal
            if field.hint == INDEX:
                number = self._numbers.get(field)
                if number is not None:
                    octets = reference(newest - number)
                else:
                    octets = self._first(field)
                    newest = FIRST_DYNAMIC + self._table.inserted
            elif octets is None or self._huffman:
                octets = self._fixed(field)
            parts.append(octets)
        return b"".join(parts)

    def _fixed(self, field: Field) -> bytes:
        if self._huffman:
            return literal(field, coded=True)
        octets = field.literal = literal(field)
        return octets

    def _first(self, field: Field) -> bytes:
        """A field that is to be indexed and is not in the table."""
        if field in STATIC_INDEX:
            field.hint = WHOLE
            return self._fixed(field)
        table = self._table
        if field.size * 2 > table.limit:  # it would drive out everything else
            octets = field.literal
            return octets if octets is not None and not self._huffman else self._fixed(field)
        while table.size + field.size > table.limit:
            del self._numbers[table.drop()]
        table.add(field)
        self._numbers[field] = table.inserted
        return inserted(field, coded=self._huffman)

    def _announce(self, parts: list[bytes]) -> None:
        for size in (self._smallest, self._last):
            if size != self._table.limit:
                parts.append(integer(SIZE_UPDATE, 0x1F, size))
                self._table.limit = size
                while self._table.size > size:
                    del self._numbers[self._table.drop()]
        self._smallest = -1
