"""Header blocks that leave the dynamic table alone: written, and read where a peer writes such ones too.

A tunnel's requests differ in a port and a trace, so a dynamic table (RFC 7541, 2.3.2) buys nothing but work: the
general codec spends its time on entries that nobody refers to again. Literals without indexing and without Huffman
coding (6.2.2, 5.2) are concatenated bytes, and reading them changes no state. Any other block is the library's.

Source: RFC 7541, section 6 and appendix A (the static table).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from hpack.table import HeaderTable

from nodeagent.http2.stream import Headers

MAX_CACHED_FIELDS: Final = 1024
MAX_CACHED_CHARACTERS: Final = 1024
"""Of a field that is kept in its coded form."""
FIELD_OVERHEAD: Final = 32
"""What a field counts beside its octets (RFC 9113, 6.5.2)."""
_CHANGING: Final = frozenset({"forwarded", "traceparent"})
"""Other in each request: not worth keeping."""
_STATIC: Final = tuple((name.decode(), value.decode()) for name, value in HeaderTable.STATIC_TABLE)
_STATIC_NAMES: Final = {name: index for index, (name, _) in reversed(list(enumerate(_STATIC, 1)))}
_STATIC_FIELDS: Final = {field: index for index, field in enumerate(_STATIC, 1)}
MAX_STATIC_OCTETS: Final = max(len(name) + len(value) for name, value in _STATIC)
_LONG: Final = 0x7F
_SHORT_INDEX: Final = 15
"""Static names from here on need a second octet: they are spelled out instead."""


def encode(headers: Headers) -> bytes:
    """The block of a header list. Names and values are ASCII or UTF-8."""
    return b"".join(
        [_field(name, value) if name in _CHANGING or len(value) > MAX_CACHED_CHARACTERS else _kept(name, value)
         for name, value in headers]
    )  # fmt: skip


def decode(block: bytes, limit: int) -> Headers | None:
    """The header list of a block of static references and plain literals; None for any other, for one that is cut
    off, and for one over ``limit`` octets as RFC 9113 counts them: the library says what is wrong with it.
    """
    fields: Headers = []
    at, end, size = 0, len(block), 0
    while at < end:
        first, begin = block[at], at
        at += 1
        if first & 0x80:
            index = first & 0x7F
            if not 0 < index <= len(_STATIC):
                return None
            name, value = _STATIC[index - 1]
        elif first < _SHORT_INDEX or 0x10 <= first < 0x10 + _SHORT_INDEX:  # without indexing, or never indexed
            index = first & 0x0F
            if index:
                name = _STATIC[index - 1][0]
            else:
                found = _string(block, at, end)
                if found is None:
                    return None
                name, at = found
            found = _string(block, at, end)
            if found is None:
                return None
            value, at = found
        else:
            return None
        size += at - begin + MAX_STATIC_OCTETS + FIELD_OVERHEAD  # rather too much: then the library counts
        if size > limit:
            return None
        fields.append((name, value))
    return fields


def _string(block: bytes, at: int, end: int) -> tuple[str, int] | None:
    """A string that is not Huffman coded, and where it ends."""
    if at >= end:
        return None
    length = block[at]
    at += 1
    if length >= _LONG:  # Huffman coded, or of 127 octets and more
        if length != _LONG:
            return None
        shift = 0
        while True:
            if at >= end or shift > 14:
                return None
            octet = block[at]
            at += 1
            length += (octet & 0x7F) << shift
            shift += 7
            if not octet & 0x80:
                break
    stop = at + length
    if stop > end:
        return None
    return block[at:stop].decode("utf-8", "replace"), stop


@lru_cache(MAX_CACHED_FIELDS)
def _kept(name: str, value: str) -> bytes:
    return _field(name, value)


def _field(name: str, value: str) -> bytes:
    whole = _STATIC_FIELDS.get((name, value))
    if whole is not None:
        return bytes((0x80 | whole,))
    index = _STATIC_NAMES.get(name, _SHORT_INDEX)
    head = bytes((index,)) if index < _SHORT_INDEX else b"\0" + _literal(name)
    return head + _literal(value)


def _literal(text: str) -> bytes:
    data = text.encode()
    length = len(data)
    if length < _LONG:
        return bytes((length,)) + data
    head, rest = bytearray((_LONG,)), length - _LONG
    while rest >= 0x80:
        head.append(0x80 | rest & 0x7F)
        rest >>= 7
    head.append(rest)
    return bytes(head) + data
