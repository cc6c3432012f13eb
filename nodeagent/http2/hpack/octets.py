"""Integers and literals as octets (RFC 7541, sections 5 and 6), written. ``BlockDecoder`` reads them."""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64

from nodeagent.http2.hpack import huffman
from nodeagent.http2.hpack.field import NEVER, Field
from nodeagent.http2.hpack.static import STATIC_INDEX, STATIC_NAME

INDEXED: Final = 0x80
WITH_INDEXING: Final = 0x40
SIZE_UPDATE: Final = 0x20
NEVER_INDEXED: Final = 0x10
WITHOUT_INDEXING: Final = 0x00
HUFFMAN: Final = 0x80


_OCTETS: Final[list[bytes]] = [bytes((octet,)) for octet in range(256)]


def integer(first: i64, largest: i64, value: i64) -> bytes:
    """A number after the flags of ``first``; ``largest`` is the mask of its prefix (5.1)."""
    if value < largest:
        return _OCTETS[first | value]
    out = [first | largest]
    value -= largest
    while value >= 0x80:
        out.append(0x80 | value & 0x7F)
        value >>= 7
    out.append(value)
    return bytes(out)


REFERENCES: Final[list[bytes]] = [integer(INDEXED, 0x7F, index) for index in range(256)]


def reference(index: i64) -> bytes:
    """An entry of a table, by its index."""
    return REFERENCES[index] if index < 256 else integer(INDEXED, 0x7F, index)


def string(text: bytes, *, coded: bool) -> bytes:
    """A string literal; with ``coded`` by the Huffman code unless that is longer."""
    if coded and len(text) >= huffman.encoded_size(text) > 0:
        text = huffman.encode(text)
        return integer(HUFFMAN, 0x7F, len(text)) + text
    return integer(0, 0x7F, len(text)) + text


def literal(field: Field, *, coded: bool = False) -> bytes:
    """A field without the dynamic table: a static entry if it is one, else a literal that is not indexed."""
    if field.hint == NEVER:
        return _literal(NEVER_INDEXED, 0x0F, field, coded=coded)
    whole = STATIC_INDEX.get(field, 0)
    return REFERENCES[whole] if whole else _literal(WITHOUT_INDEXING, 0x0F, field, coded=coded)


def inserted(field: Field, *, coded: bool = False) -> bytes:
    """A field that its reader puts into the table."""
    return _literal(WITH_INDEXING, 0x3F, field, coded=coded)


def _literal(first: i64, largest: i64, field: Field, *, coded: bool) -> bytes:
    """Names are looked up in the static table only: an index there does not move, so the octets can be kept."""
    index = STATIC_NAME.get(field.name, 0)
    head = integer(first, largest, index)
    return head + (b"" if index else string(field.name, coded=coded)) + string(field.value, coded=coded)
