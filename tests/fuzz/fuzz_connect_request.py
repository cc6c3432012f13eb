"""Whatever header list a peer sends, ``read_connect`` gives a clean request or BadRequestError."""

from __future__ import annotations

import ipaddress

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control.wire.address import SocketAddress, canonical_ip
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

fuzzed = settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
HOSTILE = st.text(
    st.one_of(
        st.sampled_from(list("0123456789abcdef:.[]%=;,\"'\\ \t\r\n\x00\x1b\x7f-_/@٣é\ufffd")),
        st.characters(codec="utf-8"),
    ),
    max_size=60,
)
ADDRESSES = st.one_of(st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str))
MAPPED = st.ip_addresses(v=4).map(lambda ip: f"::ffff:{ip}")
PORTS = st.one_of(st.integers(0, 70_000), st.sampled_from(sorted(AGENT_PORTS)))
AUTHORITIES = st.one_of(
    HOSTILE,
    st.builds(lambda ip, port: f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}", st.one_of(ADDRESSES, MAPPED), PORTS),
    st.builds(lambda name, port: f"{name}:{port}", st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True), PORTS),
)
CLAIMS = st.one_of(
    HOSTILE,
    st.builds('for="{}";host={}'.format, HOSTILE, HOSTILE),
    st.lists(st.builds("{}={}".format, HOSTILE, HOSTILE), max_size=40).map(",".join),
)
NAMES = st.sampled_from(
    ["forwarded", "baggage", "traceparent", "user-agent", ":method", ":authority", ":path", "X", ""]
)
HEADERS = st.lists(st.tuples(st.one_of(NAMES, HOSTILE), CLAIMS), max_size=6)


def check(headers: list[tuple[str, str]]) -> ConnectRequest | None:
    """What is read is clean; what is not is refused in one printable line."""
    try:
        request = read_connect(headers)
    except BadRequestError as error:
        assert str(error).isprintable()
        return None
    assert 1 <= request.authority.port <= 65_535
    assert request.authority.port not in AGENT_PORTS
    if isinstance(request.authority, SocketAddress):
        assert canonical_ip(request.authority.ip) == request.authority.ip
    else:
        assert str(request.authority).isascii() and str(request.authority).isprintable()
    for text in (request.forwarded_host, request.trace_parent, *request.baggage, *request.baggage.values()):
        assert text.isascii() and text.isprintable() and not set(text) & set(' ",;\\')
    assert len(request.baggage) <= MAX_BAGGAGE_ITEMS
    assert read_connect(connect_headers(request)) == request, "what was read can be said again"
    return request


@fuzzed
@given(HEADERS)
def test_any_header_list(headers: list[tuple[str, str]]) -> None:
    check(headers)
    assert 0 <= status_of([*headers, (":status", "200")]) <= 999


@fuzzed
@given(AUTHORITIES, HEADERS)
def test_any_authority_and_claims(authority: str, claims: list[tuple[str, str]]) -> None:
    check([(":method", "CONNECT"), (":authority", authority), *claims])


@fuzzed
@given(st.one_of(ADDRESSES, MAPPED), st.integers(1, 65_535).filter(lambda port: port not in AGENT_PORTS))
def test_every_address_is_read_as_its_canonical_self(ip: str, port: int) -> None:
    authority = f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
    request = check([(":method", "CONNECT"), (":authority", authority)])
    assert request is not None and isinstance(request.authority, SocketAddress)
    parsed = ipaddress.ip_address(ip)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    assert ipaddress.ip_address(request.authority.ip) == (mapped or parsed)


@fuzzed
@given(
    st.one_of(
        st.builds(SocketAddress, ADDRESSES.map(canonical_ip), st.just(80)),
        st.builds(Hostname, st.just("web"), st.just(80)),
    ),
    HOSTILE,
    st.dictionaries(HOSTILE, HOSTILE, max_size=5),
    HOSTILE,
)
def test_nothing_that_we_are_given_gets_out_of_its_header(
    authority: SocketAddress | Hostname, host: str, baggage: dict[str, str], trace: str
) -> None:
    request = ConnectRequest(authority=authority, forwarded_host=host, baggage=baggage, trace_parent=trace)
    headers = connect_headers(request)
    assert all(value.isascii() and value.isprintable() for _, value in headers)
    assert read_connect(headers).authority == authority
