"""A peer's header blocks, read (RFC 7541, section 3)."""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64

from nodeagent.http2.errors import ErrorCode, PeerError
from nodeagent.http2.hpack import huffman
from nodeagent.http2.hpack.field import INDEX, LITERAL, NEVER, Field
from nodeagent.http2.hpack.static import FIRST_DYNAMIC, STATIC
from nodeagent.http2.hpack.table import DEFAULT_SIZE, DynamicTable

MAX_SHIFT: Final = 28
"""Of the last octet that an integer may have: five octets after the prefix, more than any value here needs."""
_FIRST: Final = FIRST_DYNAMIC


class BlockDecoder:
    """The peer's table as we follow it. Its blocks are read in the order in which they came, each whole."""

    def __init__(self, max_list: int, max_fields: int) -> None:
        self._table = DynamicTable()
        self._max_list: i64 = max_list
        self._max_fields: i64 = max_fields
        self._allowed: i64 = DEFAULT_SIZE
        self._update_due = False
        self._block = b""
        self._at: i64 = 0
        self._size: i64 = 0

    def allow(self, size: int) -> None:
        """The peer acknowledged that its table has at most so many octets: if that is less than it used, its next
        block begins with a new size (RFC 7541, 4.2).
        """
        self._allowed = size
        self._update_due = self._table.limit > self._allowed

    def decode(self, block: bytes) -> tuple[list[Field], str]:
        """The fields, and the bound that they exceed: then the list is cut off, but the table is in step.

        PeerError: the connection cannot go on.
        """
        self._block, self._at, self._size = block, 0, len(block)
        fields: list[Field] = []
        excess = ""
        octets: i64 = 0
        self._read_sizes()
        while self._at < self._size:
            field = self._field()
            octets += field.size
            if octets > self._max_list:
                excess = f"a header list over {self._max_list} octets"
            elif len(fields) >= self._max_fields:
                excess = f"more than {self._max_fields} header fields"
            if not excess:
                fields.append(field)
        self._block = b""
        return fields, excess

    def _read_sizes(self) -> None:
        """New sizes of the table, which stand before everything else. A peer whose own settings changed often may
        write each of them, although two would do.
        """
        table = self._table
        while self._at < self._size and self._block[self._at] & 0xE0 == 0x20:
            size = self._integer(0x1F)
            if size > self._allowed:
                raise _error(f"a table of {size} octets, {self._allowed} are allowed")
            table.limit = size
            table.shrink(size)
            self._update_due = False
        if self._update_due:
            raise _error(f"no new size of the table, although {self._allowed} octets were agreed")

    def _field(self) -> Field:
        first: i64 = self._block[self._at]
        if first & 0x80:
            return self._entry(self._integer(0x7F))
        if first & 0x40:
            field = self._literal(0x3F, INDEX)
            self._table.insert(field)
            return field
        if first & 0x20:
            raise _error("a new size of the table after a field")
        return self._literal(0x0F, NEVER if first & 0x10 else LITERAL)

    def _literal(self, largest: i64, hint: i64) -> Field:
        index = self._integer(largest)
        if not index:
            name = self._string()
            return Field(name, self._string(), hint)
        like = self._entry(index)
        return Field(like.name, self._string(), hint, like)

    def _entry(self, index: i64) -> Field:
        if index < _FIRST:
            if not index:
                raise _error("index 0")
            return STATIC[index]
        entry = self._table.get(index - _FIRST)
        if entry is None:
            raise _error(f"index {index} is in no table")
        return entry

    def _integer(self, largest: i64) -> i64:
        block, at = self._block, self._at
        value: i64 = block[at] & largest
        at += 1
        if value == largest:
            shift: i64 = 0
            more = True
            while more:
                if at >= self._size:
                    raise _error("an integer is cut off")
                if shift > MAX_SHIFT:
                    raise _error("an integer is too long")
                octet: i64 = block[at]
                at += 1
                value += (octet & 0x7F) << shift
                shift += 7
                more = octet & 0x80 != 0
        self._at = at
        return value

    def _string(self) -> bytes:
        if self._at >= self._size:
            raise _error("a literal is cut off")
        coded = self._block[self._at] & 0x80 != 0
        length = self._integer(0x7F)
        begin = self._at
        end = begin + length
        if end > self._size:
            raise _error(f"a string of {length} octets is cut off")
        self._at = end
        if not coded:
            return self._block[begin:end]
        text = huffman.decode(self._block, begin, end)
        if text is None:
            raise _error("a string breaks the Huffman code")
        return text


def _error(text: str) -> PeerError:
    return PeerError(ErrorCode.COMPRESSION_ERROR, f"header block: {text}")
