"""One header field, and what is found out about it once.

Names and values are octets: HTTP gives them no character set (RFC 9110, 5.5), a proxy forwards them as they came, and
comparing or copying octets needs no decoding. ``Field.text`` is for those who want text.
"""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64

OVERHEAD: Final = 32
"""What a field counts beside its octets, in the tables and in a header list (RFC 7541, 4.1; RFC 9113, 6.5.2)."""

# How a field is written (RFC 7541, 6): the sender's choice on one connection, kept for the next one.
INDEX: Final = 0
"""It is expected to come again: put it into the table."""
LITERAL: Final = 1
"""Leave the table alone."""
NEVER: Final = 2
"""Leave the table alone, and so must everybody who forwards it (7.1.3)."""
WHOLE: Final = 3
"""An entry of the static table is this very field."""

# Kinds: what a field means to a proxy. Pseudo-fields come first, so that ``kind <= STATUS`` tells them.
UNKNOWN_PSEUDO: Final = 0
METHOD: Final = 1
SCHEME: Final = 2
AUTHORITY: Final = 3
PATH: Final = 4
PROTOCOL: Final = 5
STATUS: Final = 6
OTHER: Final = 7
"""A field that no kind names."""
CONNECTION: Final = 8
"""A field of HTTP/1.1 connections, which HTTP/2 does not carry."""
TE: Final = 9
HOST: Final = 10
CONTENT_LENGTH: Final = 11
CONTENT_TYPE: Final = 12
EXPECT: Final = 13
COOKIE: Final = 14
AUTHORIZATION: Final = 15
REQUEST_ID: Final = 16
TRACE_PARENT: Final = 17
TRACE_STATE: Final = 18
B3: Final = 19
FORWARDED: Final = 20
GRPC_STATUS: Final = 21
GRPC_MESSAGE: Final = 22
GRPC_TIMEOUT: Final = 23
RETRY_AFTER: Final = 24

KINDS: Final[dict[bytes, int]] = {
    b":method": METHOD, b":scheme": SCHEME, b":authority": AUTHORITY, b":path": PATH, b":protocol": PROTOCOL,
    b":status": STATUS, b"connection": CONNECTION, b"keep-alive": CONNECTION, b"proxy-connection": CONNECTION,
    b"transfer-encoding": CONNECTION, b"upgrade": CONNECTION, b"te": TE, b"host": HOST,
    b"content-length": CONTENT_LENGTH, b"content-type": CONTENT_TYPE, b"expect": EXPECT, b"cookie": COOKIE,
    b"authorization": AUTHORIZATION, b"proxy-authorization": AUTHORIZATION, b"x-request-id": REQUEST_ID,
    b"traceparent": TRACE_PARENT, b"tracestate": TRACE_STATE, b"b3": B3, b"x-b3-traceid": B3, b"x-b3-spanid": B3,
    b"x-b3-parentspanid": B3, b"x-b3-sampled": B3, b"x-b3-flags": B3, b"forwarded": FORWARDED,
    b"grpc-status": GRPC_STATUS, b"grpc-message": GRPC_MESSAGE, b"grpc-timeout": GRPC_TIMEOUT,
    b"retry-after": RETRY_AFTER,
}  # fmt: skip

SHORT_COOKIE: Final = 20
"""Octets below which a cookie is easy to guess by watching sizes (RFC 7541, 7.1.3; the bound of nghttp2)."""

BAD_NAME: Final = "a name that is not a lower-case token (RFC 9113, 8.2.1)"
BAD_VALUE: Final = "a value that holds a control character (RFC 9110, 5.5)"
BLANK_ENDS: Final = "a value that begins or ends with a blank (RFC 9113, 8.2.1)"
HOP_BY_HOP: Final = "a field of HTTP/1.1 connections (RFC 9113, 8.2.2)"
BAD_TE: Final = "TE of anything but trailers (RFC 9113, 8.2.2)"
BAD_PSEUDO: Final = "a pseudo-field that is not defined (RFC 9113, 8.3)"

_TOKEN: Final = bytes([octet in b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz" for octet in range(256)])
_HASH: Final = (1 << 60) - 1
_SPACE: Final = 0x20
_TAB: Final = 0x09
_DELETE: Final = 0x7F


class Field:
    """A header field. Nothing of it changes but what is cached; equal are those of equal name and value."""

    __slots__ = ("_fault", "_hash", "_text", "hint", "kind", "literal", "name", "size", "value")

    def __init__(self, name: bytes, value: bytes, hint: int = INDEX, like: Field | None = None) -> None:
        """``like`` is a field of the same name, where there is one: it has the same kind.

        Identifiers of one request are not indexed, credentials never, whatever ``hint`` asks for.
        """
        self.name = name
        self.value = value
        self.size: i64 = len(name) + len(value) + OVERHEAD
        """Octets as the tables and bounds count them."""
        self.kind: i64 = like.kind if like is not None else _kind(name)
        self.hint: i64 = _hint(hint, self.kind, len(value))
        self.literal: bytes | None = None
        """Its octets where the dynamic table does not matter; an encoder's."""
        self._fault: str | None = None
        self._hash: i64 = 0
        self._text: tuple[str, str] | None = None

    @property
    def fault(self) -> str:
        """Why no message may carry it (RFC 9113, 8.2); empty if it is valid."""
        fault = self._fault
        if fault is None:
            fault = _name_fault(self.name, self.kind) or _value_fault(self.value)
            if self.kind == TE and self.value != b"trailers" and not fault:
                fault = BAD_TE
            self._fault = fault
        return fault

    @property
    def text(self) -> tuple[str, str]:
        """Name and value as text; what is no UTF-8 is replaced."""
        text = self._text
        if text is None:
            text = self._text = (self.name.decode("utf-8", "replace"), self.value.decode("utf-8", "replace"))
        return text

    def __hash__(self) -> int:
        if not self._hash:
            self._hash = (hash((self.name, self.value)) & _HASH) | 1
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Field) and self.name == other.name and self.value == other.value

    def __repr__(self) -> str:
        return f"Field({self.name!r}, {self.value!r})"


def _kind(name: bytes) -> i64:
    kind = KINDS.get(name)
    if kind is not None:
        return kind
    return UNKNOWN_PSEUDO if name.startswith(b":") else OTHER


def _hint(hint: i64, kind: i64, octets: i64) -> i64:
    if hint == WHOLE:
        return WHOLE
    if kind == AUTHORIZATION or (kind == COOKIE and octets < SHORT_COOKIE):
        return NEVER
    if hint == INDEX and REQUEST_ID <= kind <= B3:
        return LITERAL
    return hint


def _name_fault(name: bytes, kind: i64) -> str:
    if kind == CONNECTION:
        return HOP_BY_HOP
    if kind == UNKNOWN_PSEUDO:
        return BAD_PSEUDO
    if kind != OTHER:
        return ""
    size: i64 = len(name)
    at: i64 = 0
    while at < size:
        if not _TOKEN[name[at]]:
            return BAD_NAME
        at += 1
    return "" if size else BAD_NAME


def _value_fault(value: bytes) -> str:
    size: i64 = len(value)
    if not size:
        return ""
    first: i64 = value[0]
    last: i64 = value[size - 1]
    at: i64 = 0
    while at < size:
        octet: i64 = value[at]
        if (octet < _SPACE and octet != _TAB) or octet == _DELETE:
            return BAD_VALUE
        at += 1
    return BLANK_ENDS if first in (_SPACE, _TAB) or last in (_SPACE, _TAB) else ""
