"""Heads of messages: the rules of HTTP/2 for requests, responses and trailers (RFC 9113, sections 8.2, 8.3 and 8.5; the
extended CONNECT of RFC 8441).

Fields know their own faults; here is what a list of them must be. Each check gives the fault in words, or nothing.
"""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64

from nodeagent.http2.hpack.field import (
    AUTHORITY,
    CONTENT_LENGTH,
    HOST,
    METHOD,
    PATH,
    PROTOCOL,
    SCHEME,
    STATUS,
    Field,
)

_NEEDED: Final = 1 << METHOD | 1 << SCHEME | 1 << PATH
_TUNNEL: Final = 1 << METHOD | 1 << AUTHORITY
_EXTENDED: Final = _NEEDED | 1 << AUTHORITY | 1 << PROTOCOL
_PSEUDO: Final = _EXTENDED | 1 << STATUS
MAX_LENGTH_DIGITS: Final = 18
"""Of a content-length: it fits 63 bits."""


class MessageHead:
    """A checked list of fields, and what was found in it."""

    __slots__ = ("authority", "content_length", "fault", "fields", "method", "path", "seen", "status")

    def __init__(self, fields: list[Field]) -> None:
        self.fields = fields
        self.fault = ""
        """Why the message is malformed; empty if it is well formed."""
        self.seen: i64 = 0
        """The pseudo-fields and Host that it has, as bits by kind."""
        self.method = b""
        self.path = b""
        self.authority = b""
        """Of ``:authority``, or of Host where there is none."""
        self.status: i64 = 0
        self.content_length: i64 = -1
        """-1: not given."""


def request_head(fields: list[Field]) -> MessageHead:
    """A request's."""
    head = MessageHead(fields)
    head.fault = _read(head) or _request_fault(head)
    return head


def response_head(fields: list[Field]) -> MessageHead:
    """A response's, interim or final."""
    head = MessageHead(fields)
    head.fault = _read(head)
    if head.fault:
        return head
    if head.seen & _PSEUDO != 1 << STATUS:
        head.fault = "a response has :status and no other pseudo-field (8.3.2)"
    elif head.status == 101:
        head.fault = "status 101, which HTTP/2 does not have (8.6)"
    return head


def trailers_fault(fields: list[Field]) -> str:
    """What is wrong with trailers: they have no pseudo-fields, and none that frame or route the message
    (RFC 9110, 6.5.1).
    """
    for field in fields:
        if field.fault:
            return f"{field.text[0]!r}: {field.fault}"
        if field.kind <= STATUS:
            return f"{field.text[0]} in trailers (8.1)"
        if field.kind in (CONTENT_LENGTH, HOST):
            return f"{field.text[0]} in trailers (RFC 9110, 6.5.1)"
    return ""


def _request_fault(head: MessageHead) -> str:
    seen = head.seen & _PSEUDO
    if seen & 1 << STATUS:
        return ":status in a request (8.3.1)"
    if head.method == b"CONNECT" and not seen & 1 << PROTOCOL:
        return "" if seen == _TUNNEL else "a CONNECT has :authority and neither :scheme nor :path (8.5)"
    if head.method == b"CONNECT":
        if seen != _EXTENDED:
            return "an extended CONNECT without :scheme, :path or :authority (RFC 8441, 4)"
    elif seen & 1 << PROTOCOL:
        return ":protocol in a request other than CONNECT (RFC 8441, 4)"
    elif seen & _NEEDED != _NEEDED:
        return "a request without :method, :scheme or :path (8.3.1)"
    if not head.authority:
        return "a request without :authority and Host (8.3.1)"
    if not head.path.startswith(b"/") and not (head.path == b"*" and head.method == b"OPTIONS"):
        return "a :path that does not begin with a slash (8.3.1)"
    return ""


def _read(head: MessageHead) -> str:
    """Go through the fields once; the fault that any message would have."""
    ordinary = False
    for field in head.fields:
        if field.fault:
            return f"{field.text[0]!r}: {field.fault}"
        kind = field.kind
        if kind <= STATUS:
            if ordinary:
                return f"{field.text[0]} after ordinary fields (8.3)"
            if head.seen & 1 << kind:
                return f"{field.text[0]} is repeated (8.3)"
            head.seen |= 1 << kind
            fault = _pseudo(head, field)
        else:
            ordinary = True
            fault = _ordinary(head, field) if kind in (HOST, CONTENT_LENGTH) else ""
        if fault:
            return fault
    return ""


def _pseudo(head: MessageHead, field: Field) -> str:
    kind, value = field.kind, field.value
    if kind == METHOD:
        head.method = value
    elif kind == PATH:
        head.path = value
    elif kind == AUTHORITY:
        head.authority = value
    elif kind == STATUS:
        if len(value) != 3 or not value.isdigit() or not b"100" <= value <= b"599":
            return ":status is no number from 100 to 599 (RFC 9110, 15)"
        head.status = int(value)
    return "" if value else f"{field.text[0]} is empty (8.3)"


def _ordinary(head: MessageHead, field: Field) -> str:
    value = field.value
    if field.kind == CONTENT_LENGTH:
        if head.content_length >= 0:
            return "content-length is repeated (RFC 9110, 8.6)"
        if not value.isdigit() or len(value) > MAX_LENGTH_DIGITS:
            return "content-length is no number (RFC 9110, 8.6)"
        head.content_length = int(value)
        return ""
    if head.seen & 1 << HOST:
        return "Host is repeated (RFC 9110, 7.2)"
    head.seen |= 1 << HOST
    if not head.authority:
        head.authority = value
    return "" if value == head.authority else "Host is other than :authority (8.3.1)"
