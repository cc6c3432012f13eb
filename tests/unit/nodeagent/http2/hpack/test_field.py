"""What is found out about a field: its kind, its validity (RFC 9113, 8.2), and how it may be written."""

from __future__ import annotations

import pytest

from nodeagent.http2.hpack import field as f
from nodeagent.http2.hpack.field import INDEX, LITERAL, NEVER, Field

FAULTS = {
    "upper case": (b"Host", b"x", f.BAD_NAME),
    "a blank in the name": (b"x y", b"", f.BAD_NAME),
    "a colon in the name": (b"x:y", b"", f.BAD_NAME),
    "beyond ASCII": (b"x\xe9", b"", f.BAD_NAME),
    "no name": (b"", b"x", f.BAD_NAME),
    "NUL in the name": (b"x\0", b"", f.BAD_NAME),
    "a line break": (b"x", b"a\nb", f.BAD_VALUE),
    "a carriage return": (b"x", b"a\rb", f.BAD_VALUE),
    "NUL": (b"x", b"\0", f.BAD_VALUE),
    "DEL": (b"x", b"a\x7f", f.BAD_VALUE),
    "a leading blank": (b"x", b" a", f.BLANK_ENDS),
    "a trailing tab": (b"x", b"a\t", f.BLANK_ENDS),
    "only a blank": (b"x", b" ", f.BLANK_ENDS),
    "connection": (b"connection", b"close", f.HOP_BY_HOP),
    "keep-alive": (b"keep-alive", b"1", f.HOP_BY_HOP),
    "proxy-connection": (b"proxy-connection", b"x", f.HOP_BY_HOP),
    "transfer-encoding": (b"transfer-encoding", b"chunked", f.HOP_BY_HOP),
    "upgrade": (b"upgrade", b"websocket", f.HOP_BY_HOP),
    "te: gzip": (b"te", b"gzip", f.BAD_TE),
    "te: trailers, gzip": (b"te", b"trailers, gzip", f.BAD_TE),
    "a pseudo-field that nobody defined": (b":host", b"x", f.BAD_PSEUDO),
    "a bare colon": (b":", b"x", f.BAD_PSEUDO),
    "a pseudo-field in upper case": (b":Path", b"/", f.BAD_PSEUDO),
}


@pytest.mark.parametrize(("name", "value", "fault"), FAULTS.values(), ids=FAULTS)
def test_faults(name: bytes, value: bytes, fault: str) -> None:
    assert Field(name, value).fault == fault
    assert Field(name, value, like=Field(name, b"trailers")).fault == fault, "as if its name had been examined"


@pytest.mark.parametrize(
    ("name", "value"),
    [(b"te", b"trailers"), (b"x-a_b.c!#$%&'*+-^`|~", b"a b\tc"), (b"x", b""), (b"x", b"\xff\x80"), (b":path", b"/")],
)
def test_valid_fields(name: bytes, value: bytes) -> None:
    assert Field(name, value).fault == ""


def test_the_fault_of_a_value_is_not_of_its_name() -> None:
    assert Field(b"x", b"fine", like=Field(b"x", b"\0")).fault == ""


HINTS = {
    "others": (b"x", b"y", INDEX, INDEX),
    "as its sender wrote it": (b"x", b"y", LITERAL, LITERAL),
    "never indexed stays so": (b"x", b"y", NEVER, NEVER),
    "request id": (b"x-request-id", b"1", INDEX, LITERAL),
    "traceparent": (b"traceparent", b"1", INDEX, LITERAL),
    "tracestate": (b"tracestate", b"1", INDEX, LITERAL),
    "b3": (b"x-b3-traceid", b"1", INDEX, LITERAL),
    "a trace that must not be indexed": (b"traceparent", b"1", NEVER, NEVER),
    "authorization": (b"authorization", b"Bearer " + b"x" * 100, INDEX, NEVER),
    "proxy-authorization": (b"proxy-authorization", b"Basic x", INDEX, NEVER),
    "a short cookie": (b"cookie", b"a=1", INDEX, NEVER),
    "a long cookie": (b"cookie", b"a=" + b"1" * 40, INDEX, INDEX),
}


@pytest.mark.parametrize(("name", "value", "asked", "given"), HINTS.values(), ids=HINTS)
def test_how_it_may_be_written(name: bytes, value: bytes, asked: int, given: int) -> None:
    assert Field(name, value, asked).hint == given


def test_equal_are_those_of_equal_octets() -> None:
    one, other = Field(b"a", b"b"), Field(b"a", b"b", NEVER)
    assert one == other and hash(one) == hash(other) and {one: 1}[other] == 1
    assert one != Field(b"a", b"c") and one != Field(b"", b"ab") and one != (b"a", b"b")


def test_text() -> None:
    assert Field("é".encode(), b"\xff").text == ("é", "\ufffd")
    assert Field(b"a", b"b").size == 34
