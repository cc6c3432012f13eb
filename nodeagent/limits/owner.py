"""Whom an address belongs to."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address
from typing import Final

_HALF: Final = 64
"""Bits of the smallest network that an IPv6 host is given as a rule."""


@lru_cache(4096)
def network_of(ip: str) -> str:
    """An IPv4 (or v4-mapped) address itself, of an IPv6 address its /64: one host may use all of that. ``ip`` has no
    scope. ValueError if it has a colon and is no IPv6 address.
    """
    if ":" not in ip:
        return ip
    address = IPv6Address(ip)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{IPv6Address(int(address) >> _HALF << _HALF)}/64"
