"""Heads and trailers: RFC 9113, sections 8.1 to 8.5; RFC 8441."""

from __future__ import annotations

import pytest

from nodeagent.http2.hpack.field import Field
from nodeagent.http2.message import request_head, response_head, trailers_fault

Pairs = list[tuple[str, str]]
GET: Pairs = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "web")]
CONNECT: Pairs = [(":method", "CONNECT"), (":authority", "web:80")]
EXTENDED: Pairs = [(":method", "CONNECT"), (":protocol", "websocket"), *GET[1:]]


def fields(pairs: Pairs) -> list[Field]:
    return [Field(name.encode(), value.encode()) for name, value in pairs]


def without(pairs: Pairs, name: str) -> Pairs:
    return [pair for pair in pairs if pair[0] != name]


def having(pairs: Pairs, **changed: str) -> Pairs:
    return [(name, changed.get(name[1:], value)) for name, value in pairs]


GOOD = {
    "a request": GET,
    "Host for :authority": [*without(GET, ":authority"), ("host", "web")],
    "Host as :authority": [*GET, ("host", "web")],
    "OPTIONS *": having(GET, method="OPTIONS", path="*"),
    "CONNECT": CONNECT,
    "extended CONNECT": EXTENDED,
    "te: trailers": [*GET, ("te", "trailers"), ("content-length", "5")],
}


@pytest.mark.parametrize("pairs", GOOD.values(), ids=GOOD)
def test_well_formed_requests(pairs: Pairs) -> None:
    head = request_head(fields(pairs))
    assert head.fault == "" and head.authority in (b"web", b"web:80")
    assert head.method == pairs[0][1].encode() and head.content_length == (
        5 if ("content-length", "5") in pairs else -1
    )


BAD = {
    "nothing": [],
    "no :method": without(GET, ":method"),
    "no :scheme": without(GET, ":scheme"),
    "no :path": without(GET, ":path"),
    "an empty :path": having(GET, path=""),
    "a :path without slash": having(GET, path="x"),
    "* of GET": having(GET, path="*"),
    "no authority": without(GET, ":authority"),
    "two :path": [*GET, (":path", "/")],
    ":status": [*GET, (":status", "200")],
    "an unknown pseudo-field": [*GET, (":foo", "1")],
    "a pseudo-field after others": [*GET[:3], ("a", "b"), GET[3]],
    "Host that differs": [*GET, ("host", "other")],
    "two Hosts": [*GET, ("host", "web"), ("host", "web")],
    "two content-lengths": [*GET, ("content-length", "5"), ("content-length", "5")],
    "content-length +5": [*GET, ("content-length", "+5")],
    "content-length 5, 5": [*GET, ("content-length", "5, 5")],
    "an empty content-length": [*GET, ("content-length", "")],
    "a huge content-length": [*GET, ("content-length", "9" * 19)],
    "connection": [*GET, ("connection", "close")],
    "transfer-encoding": [*GET, ("transfer-encoding", "chunked")],
    "te: gzip": [*GET, ("te", "gzip")],
    "upper case": [*GET, ("X", "1")],
    "a line break": [*GET, ("x", "a\r\nb: c")],
    ":protocol of GET": [(":protocol", "websocket"), *GET],
    "CONNECT with :path": [*CONNECT, (":path", "/")],
    "CONNECT without :authority": CONNECT[:1],
    "extended CONNECT without :path": without(EXTENDED, ":path"),
    "extended CONNECT without :authority": without(EXTENDED, ":authority"),
}


@pytest.mark.parametrize("pairs", BAD.values(), ids=BAD)
def test_malformed_requests(pairs: Pairs) -> None:
    fault = request_head(fields(pairs)).fault
    assert fault.isprintable() and fault


def test_responses() -> None:
    head = response_head(fields([(":status", "204"), ("content-length", "0"), ("server", "x")]))
    assert (head.fault, head.status, head.content_length) == ("", 204, 0)
    assert response_head(fields([(":status", "103"), ("link", "</a>")])).fault == ""


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [("server", "x")],
        [(":status", "20")],
        [(":status", "2x0")],
        [(":status", "099")],
        [(":status", "600")],
        [(":status", "101")],
        [(":status", "")],
        [(":status", "200"), (":path", "/")],
        [(":status", "200"), (":status", "200")],
        [(":status", "200"), ("connection", "close")],
        [("a", "b"), (":status", "200")],
    ],
    ids=str,
)
def test_malformed_responses(pairs: Pairs) -> None:
    assert response_head(fields(pairs)).fault


def test_trailers() -> None:
    assert trailers_fault(fields([("grpc-status", "0"), ("x", "")])) == ""
    for pair in ((":status", "200"), (":x", "1"), ("content-length", "1"), ("host", "x"), ("upgrade", "x"), ("X", "")):
        assert trailers_fault(fields([("a", "b"), pair])), pair
