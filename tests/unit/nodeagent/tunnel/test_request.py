"""The CONNECT request: what decides (``:authority``) is read strictly, what is claimed is dropped if it cannot."""

from __future__ import annotations

import pytest

from control.wire.address import SocketAddress
from nodeagent.http2.headers import Headers
from nodeagent.tunnel.request import (
    AGENT_PORTS,
    MAX_BAGGAGE_ITEMS,
    BadRequestError,
    ConnectRequest,
    Hostname,
    connect_headers,
    read_connect,
    status_of,
)

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def request_of(*more: tuple[str, str], authority: str = "10.0.0.1:80") -> ConnectRequest:
    return read_connect([(":method", "CONNECT"), (":authority", authority), *more])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1:80", SocketAddress("10.0.0.1", 80)),
        ("[2001:db8::1]:80", SocketAddress("2001:db8::1", 80)),
        ("[2001:0DB8:0:0:0:0:0:1]:80", SocketAddress("2001:db8::1", 80)),
        ("[::ffff:10.0.0.1]:80", SocketAddress("10.0.0.1", 80)),
        ("[::ffff:a00:1]:80", SocketAddress("10.0.0.1", 80)),
        ("web.shop.svc.cluster.local:80", Hostname("web.shop.svc.cluster.local", 80)),
        ("web:65535", Hostname("web", 65535)),
        ("1a.shop:1", Hostname("1a.shop", 1)),
    ],
)
def test_an_authority_has_one_spelling(text: str, expected: SocketAddress | Hostname) -> None:
    assert request_of(authority=text).authority == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.0.1",
        "10.0.0.1:",
        ":80",
        "10.0.0.1:0",
        "10.0.0.1:65536",
        "10.0.0.1:+80",
        "10.0.0.1:080",
        "10.0.0.1: 80",
        "10.0.0.1:8٠",
        "10.0.0.1:80\x00",
        "10.0.0.1:80\r\nhost: x",
        "10.0.0.1:80\n",
        "2001:db8::1:80",
        "[10.0.0.1]:80",
        "[2001:db8::1]",
        "[2001:db8::1]80",
        "[fe80::1%eth0]:80",
        "[[::1]]:80",
        "10.0.0:80",
        "010.0.0.1:80",
        "10.0.0.1.:80",
        "300.0.0.1:80",
        "2130706433:80",
        "user@10.0.0.1:80",
        "http://10.0.0.1:80",
        "10.0.0.1:80/",
        "web shop:80",
        "-web:80",
        "web.:80",
        "wéb:80",
        "a" * 254 + ":80",
        "\ufffd:80",
    ],
)
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(BadRequestError):
        request_of(authority=text)


@pytest.mark.parametrize("port", sorted(AGENT_PORTS))
@pytest.mark.parametrize("host", ["10.0.0.1", "[2001:db8::1]", "[::ffff:10.0.0.1]", "127.0.0.1", "web.shop"])
def test_the_agents_own_ports_are_no_target(host: str, port: int) -> None:
    assert {15001, 15006, 15008} == AGENT_PORTS
    with pytest.raises(BadRequestError, match="belongs to the agent"):
        request_of(authority=f"{host}:{port}")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(":method", "GET"), (":authority", "10.0.0.1:80")],
        [(":method", "connect"), (":authority", "10.0.0.1:80")],
        [(":method", "CONNECT")],
        [(":method", "CONNECT"), (":authority", "10.0.0.1:80"), (":scheme", "https")],
        [(":method", "CONNECT"), (":authority", "10.0.0.1:80"), (":path", "/")],
        [(":method", "CONNECT"), (":authority", "10.0.0.1:80"), (":protocol", "websocket")],
        [(":method", "CONNECT"), (":authority", "10.0.0.1:80"), (":status", "200")],
        [(":method", "CONNECT"), (":authority", "10.0.0.1:80"), (":authority", "10.0.0.2:80")],
        [(":method", "CONNECT"), ("x", "y"), (":authority", "10.0.0.1:80")],
        [(":method", "CONNECT"), (":authority", "10.0.0.1:80"), ("Forwarded", "for=x")],
        [(":method", "CONNECT"), (":authority", "10.0.0.1:80"), ("", "x")],
        [(":method", "CONNECT"), (":authority", "10.0.0.1:80"), ("a b", "x")],
        [(":method", "CONNECT"), (":authority", "10.0.0.1:80"), ("a\r\nb", "x")],
        [(":method", "CONNECT"), (":authority", "10.0.0.1:80"), ("x", "a\r\nb: c")],
        [(":method", "CONNECT"), (":authority", "10.0.0.1:80"), ("x", "a\nb")],
        [(":method", "CONNECT"), (":authority", "10.0.0.1:80"), ("x", "a\x00b")],
    ],
)
def test_malformed_requests_are_refused_in_one_printable_line(headers: Headers) -> None:
    with pytest.raises(BadRequestError) as caught:
        read_connect(headers)
    assert str(caught.value).isprintable()


def test_the_claims_of_a_ztunnel() -> None:
    request = request_of(
        ("forwarded", 'for="10.0.0.2:41234";host=web.shop.svc.cluster.local'),
        ("baggage", "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=web,service.name=web"),
        ("traceparent", TRACE),
        ("user-agent", "ztunnel"),
    )
    assert request.forwarded_for == SocketAddress("10.0.0.2", 41234)
    assert request.forwarded_host == "web.shop.svc.cluster.local"
    assert request.baggage["k8s.deployment.name"] == "web" and len(request.baggage) == 4
    assert request.trace_parent == TRACE


@pytest.mark.parametrize(
    ("text", "source", "host"),
    [
        ('for="[2001:db8::1]:80";host=web', SocketAddress("2001:db8::1", 80), "web"),
        ('for="[::ffff:10.0.0.2]:80"', SocketAddress("10.0.0.2", 80), ""),
        ("host=web; for=10.0.0.2:80", SocketAddress("10.0.0.2", 80), "web"),
        ("For=10.0.0.2:80;HOST=Web.Shop:80", SocketAddress("10.0.0.2", 80), "Web.Shop:80"),
        ("for=10.0.0.2", None, ""),
        ("for=unknown;host=", None, ""),
        ("for=_hidden", None, ""),
        ("xfor=10.0.0.2:80;yhost=web", None, ""),
        ('for="', None, ""),
        ("", None, ""),
        ("host=we\tb", None, ""),
        ("host=\x1b[31mred", None, ""),
        ("host=" + "a" * 300, None, ""),
        ("host=\ufffd", None, ""),
    ],
)
def test_forwarded_is_read_or_dropped(text: str, source: SocketAddress | None, host: str) -> None:
    request = request_of(("forwarded", text))
    assert (request.forwarded_for, request.forwarded_host) == (source, host)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=1, b = 2 ;meta=x,c=", {"a": "1", "b": "2", "c": ""}),
        ("a=1,a=2", {"a": "2"}),
        ("nothing,=x,a b=c,\x01=y", {}),
        ('a=\x1b[2J,b=sp ace,c=qu"ote,d=back\\slash,e=\ufffd,f=fine', {"f": "fine"}),
        (",,,,", {}),
    ],
)
def test_baggage_is_read_item_by_item(text: str, expected: dict[str, str]) -> None:
    assert request_of(("baggage", text)).baggage == expected


def test_baggage_is_bounded() -> None:
    items = request_of(("baggage", ",".join(f"k{number}=v" for number in range(1000)))).baggage
    assert len(items) == MAX_BAGGAGE_ITEMS


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00-0-0-01",
        TRACE.upper(),
        TRACE + "\t",
        TRACE.replace("00-", "ff-", 1),
        "00-" + "0" * 32 + "-" + "1" * 16 + "-01",
    ],
)
def test_a_trace_parent_is_exact_or_absent(text: str) -> None:
    assert request_of(("traceparent", text)).trace_parent == ""


@pytest.mark.parametrize(
    "authority",
    [SocketAddress("10.0.0.1", 80), SocketAddress("2001:db8::1", 443), Hostname("web.shop", 80)],
    ids=str,
)
def test_what_we_build_is_what_is_read(authority: SocketAddress | Hostname) -> None:
    request = ConnectRequest(
        authority=authority,
        forwarded_for=SocketAddress("2001:db8::2", 41234),
        forwarded_host="web.shop",
        baggage={"service.name": "web", "service.version": "v1"},
        trace_parent=TRACE,
    )
    assert read_connect(connect_headers(request)) == request
    bare = ConnectRequest(authority=authority)
    assert connect_headers(bare) == [(":method", "CONNECT"), (":authority", str(authority))]


def test_what_we_build_carries_no_injected_header_or_item() -> None:
    headers = connect_headers(
        ConnectRequest(
            authority=SocketAddress("10.0.0.1", 80),
            forwarded_for=SocketAddress("10.0.0.2", 80),
            forwarded_host="web\r\nx: y",
            baggage={"service.name": "web,admin=yes", "a\n": "b", "c": "d\r\n", "fine": "yes"},
            trace_parent="x\r\ny",
        )
    )
    assert headers[2:] == [("forwarded", 'for="10.0.0.2:80"'), ("baggage", "fine=yes")]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(":status", "200")], 200),
        ([("x", "y"), (":status", "503")], 503),
        ([], 0),
        ([(":status", "")], 0),
        ([(":status", "2000")], 0),
        ([(":status", "-20")], 0),
        ([(":status", "٢٠٠")], 0),
        ([(":status", "abc")], 0),
    ],
)
def test_the_status_of_an_answer(headers: Headers, status: int) -> None:
    assert status_of(headers) == status
