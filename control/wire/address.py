"""Addresses in one spelling: IPv4, IPv6 and v4-mapped IPv6 are canonical here and nowhere else.

A v4-mapped address (``::ffff:10.0.0.1``) *is* the IPv4 address; it is made so at the edge, once.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import NamedTuple

MAX_PORT = 65535
MAX_REMEMBERED = 4096
"""Addresses whose canonical spelling is remembered: every connection has two, and most of them again."""


class AddressError(ValueError):
    """The text is not an address (or not an address and a port); the message says which and why."""


_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_CANONICAL_IPV4 = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}\Z")


@lru_cache(MAX_REMEMBERED)
def canonical_ip(text: str) -> str:
    """The one spelling of an IP address: v4-mapped becomes v4, IPv6 is compressed and lower case.

    Scope ids (``fe80::1%eth0``) are refused: a link-local address names no workload.
    """
    if _CANONICAL_IPV4.match(text):  # most addresses are: a tenth of the time of what follows
        return text
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise AddressError(f"{text!r} is not an IPv4 or IPv6 address") from error
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            raise AddressError(f"{text!r} carries a scope id; use an address without one")
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
    return str(address)


def packed_ip(text: str) -> bytes:
    """The 16 bytes by which the kernel's maps name an address: IPv6, or IPv4 as ``::ffff:a.b.c.d``."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv4Address):
        return b"\x00" * 10 + b"\xff\xff" + address.packed
    return address.packed


def unpacked_ip(packed: bytes) -> str:
    """The canonical text of a 16-byte address: the inverse of ``packed_ip``."""
    if packed[:12] == b"\x00" * 10 + b"\xff\xff":
        return str(ipaddress.IPv4Address(packed[12:]))
    return str(ipaddress.IPv6Address(packed))


class SocketAddress(NamedTuple):
    """An IP address in canonical text and a port in host order."""

    ip: str
    port: int

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"

    @property
    def family(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.ip else 4


def parse_port(text: str) -> int:
    """A decimal port, 1 to 65535, in ASCII digits without sign, blank or leading zero."""
    if not text.isascii() or not text.isdigit() or text.startswith("0") or len(text) > 5:
        raise AddressError(f"{text!r} is not a port (1 to {MAX_PORT})")
    port = int(text)
    if port > MAX_PORT:
        raise AddressError(f"{text!r} is not a port (1 to {MAX_PORT})")
    return port


def parse_socket_address(text: str) -> SocketAddress:
    """``1.2.3.4:80`` or ``[2001:db8::1]:80``; an IPv6 address needs its brackets."""
    host, separator, port = text.rpartition(":")
    if not separator:
        raise AddressError(f"{text!r} has no port; write address:port")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if ":" not in host:
            raise AddressError(f"{text!r} brackets something that is not an IPv6 address")
    elif ":" in host:
        raise AddressError(f"{text!r}: write an IPv6 address in brackets, [address]:port")
    return SocketAddress(canonical_ip(host), parse_port(port))
