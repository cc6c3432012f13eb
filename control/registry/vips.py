"""Virtual addresses for services that name none: one cursor that only moves forward, so that an address rests before
it returns."""

from __future__ import annotations

import ipaddress
from collections.abc import Container

IPV4_POOL = ipaddress.IPv4Network("240.240.0.0/16")
IPV6_POOL = ipaddress.IPv6Network("fd6d:6573:68::/64")
CAPACITY = IPV4_POOL.num_addresses - 2
"""Places in the pool; after so many allocations the cursor begins again and skips what is in use."""


class PoolExhaustedError(Exception):
    """Every virtual address is in use."""


def allocate(cursor: int, used: Container[str]) -> tuple[tuple[str, str], int]:
    """((IPv4, IPv6), the next cursor). ``used`` holds canonical addresses that must not be given out."""
    for step in range(CAPACITY):
        place = (cursor + step) % CAPACITY + 1
        ipv4, ipv6 = str(IPV4_POOL[place]), str(IPV6_POOL[place])
        if ipv4 not in used and ipv6 not in used:
            return (ipv4, ipv6), (cursor + step + 1) % CAPACITY
    raise PoolExhaustedError(f"all {CAPACITY} virtual addresses of {IPV4_POOL} are in use; give spec.addresses")
