"""Whether a peer's messages are well formed on their streams, and how much content each announces (RFC 9113, 8.1).

For connections whose limits are ``checked``. Each gives the fault in words, or nothing.
"""

from __future__ import annotations

from typing import Final

from nodeagent.http2.hpack.field import METHOD, Field
from nodeagent.http2.message import request_head, response_head, trailers_fault
from nodeagent.http2.stream import Stream

WRONG_LENGTH: Final = "its content is not as long as it announced (8.1.1)"


def note_method(stream: Stream, fields: list[Field]) -> None:
    """Client: remember what our request's method says about the content of the answer (RFC 9110, 6.4.1)."""
    for field in fields:
        if field.kind == METHOD:
            stream.no_content = field.value == b"HEAD"
            stream.tunnel = field.value == b"CONNECT"


def request_content(fields: list[Field], *, ended: bool) -> tuple[str, int]:
    """Server: the fault of a request, and the octets that it announces (-1: any number)."""
    head = request_head(fields)
    if not head.fault and ended and head.content_length > 0:
        return WRONG_LENGTH, 0
    return head.fault, head.content_length


def read_response(stream: Stream, fields: list[Field], *, ended: bool) -> str:
    """Client: the fault of a response; the stream then knows how much content belongs to it."""
    head = response_head(fields)
    if head.fault:
        return head.fault
    if head.status < 200:
        return "an interim response that ends its stream (8.1)" if ended else ""
    if stream.no_content or head.status in (204, 304):
        stream.expected = 0
    elif not (stream.tunnel and head.status < 300):
        stream.expected = head.content_length
    return WRONG_LENGTH if ended and stream.expected > 0 else ""


def read_trailers(stream: Stream, fields: list[Field], *, ended: bool) -> str:
    """The fault of trailers, or of the content that they end."""
    if ended and stream.expected > 0:
        return WRONG_LENGTH
    return trailers_fault(fields)
