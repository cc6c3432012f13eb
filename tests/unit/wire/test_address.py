"""One spelling for every address."""

from __future__ import annotations

import pytest

from control.wire.address import (
    AddressError,
    SocketAddress,
    canonical_ip,
    packed_ip,
    parse_port,
    parse_socket_address,
    unpacked_ip,
)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::FFFF:0a00:0001", "10.0.0.1"),
        ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
        ("::", "::"),
        ("::1", "::1"),
        ("::10.0.0.1", "::a00:1"),
    ],
)
def test_canonical(text: str, canonical: str) -> None:
    assert canonical_ip(text) == canonical
    assert canonical_ip(canonical) == canonical


@pytest.mark.parametrize(
    "text",
    ["", "web", "10.0.0.256", "010.0.0.1", "10.0.0.1/8", " 10.0.0.1", "10.0.0.1\n", "[::1]", "1::2::3", "٠.0.0.1"],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(AddressError, match="not an IPv4 or IPv6 address"):
        canonical_ip(text)


def test_a_scope_id_is_refused_by_name() -> None:
    with pytest.raises(AddressError, match="scope id"):
        canonical_ip("fe80::1%eth0")


@pytest.mark.parametrize(
    ("text", "packed"),
    [
        ("10.0.0.1", bytes(10) + b"\xff\xff\x0a\x00\x00\x01"),
        ("::ffff:10.0.0.1", bytes(10) + b"\xff\xff\x0a\x00\x00\x01"),
        ("2001:db8::1", b"\x20\x01\x0d\xb8" + bytes(11) + b"\x01"),
        ("::", bytes(16)),
    ],
)
def test_packed(text: str, packed: bytes) -> None:
    assert packed_ip(text) == packed
    assert unpacked_ip(packed) == canonical_ip(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.1:80", SocketAddress("10.0.0.1", 80)),
        ("[2001:db8::1]:443", SocketAddress("2001:db8::1", 443)),
        ("[::ffff:10.0.0.1]:80", SocketAddress("10.0.0.1", 80)),
        ("[::]:65535", SocketAddress("::", 65535)),
    ],
)
def test_socket_addresses(text: str, address: SocketAddress) -> None:
    assert parse_socket_address(text) == address
    assert parse_socket_address(str(address)) == address


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("10.0.0.1", "no port"),
        ("::1:80", "brackets"),
        ("2001:db8::1", "brackets"),
        ("[10.0.0.1]:80", "brackets something"),
        ("[]:80", "brackets something"),
        ("10.0.0.1:", "not a port"),
        ("10.0.0.1:0", "not a port"),
        ("10.0.0.1:65536", "not a port"),
        ("10.0.0.1:+80", "not a port"),
        (":80", "not an IPv4"),
        ("web:80", "not an IPv4"),
        ("", "no port"),
    ],
)
def test_what_is_no_socket_address(text: str, says: str) -> None:
    with pytest.raises(AddressError, match=says):
        parse_socket_address(text)


def test_family() -> None:
    assert SocketAddress("10.0.0.1", 1).family == 4
    assert SocketAddress("::1", 1).family == 6


@pytest.mark.parametrize(
    "text", ["", "0", "080", "-1", "1.0", " 1", "1 ", "65536", "99999", "100000", "٨٠", "²", "8_0", "1e3"]
)
def test_what_is_no_port(text: str) -> None:
    with pytest.raises(AddressError, match="not a port"):
        parse_port(text)


@pytest.mark.parametrize("text", ["1", "80", "65535"])
def test_ports(text: str) -> None:
    assert parse_port(text) == int(text)
