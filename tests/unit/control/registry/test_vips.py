"""The cursor goes round once before an address returns."""

from __future__ import annotations

import ipaddress

import pytest

from control.registry.vips import CAPACITY, IPV4_POOL, IPV6_POOL, PoolExhaustedError, allocate


def test_pairs_count_up_and_stay_inside_the_pools() -> None:
    assert allocate(0, ()) == (("240.240.0.1", "fd6d:6573:68::1"), 1)
    (ipv4, ipv6), cursor = allocate(CAPACITY - 1, ())
    assert (ipv4, cursor) == ("240.240.255.254", 0)
    assert ipaddress.ip_address(ipv4) in IPV4_POOL and ipaddress.ip_address(ipv6) in IPV6_POOL


def test_either_address_in_use_skips_the_pair() -> None:
    assert allocate(0, {"240.240.0.1", "fd6d:6573:68::2"}) == (("240.240.0.3", "fd6d:6573:68::3"), 3)


def test_no_address_left() -> None:
    class Everything:
        def __contains__(self, _: object) -> bool:
            return True

    with pytest.raises(PoolExhaustedError, match=r"spec\.addresses"):
        allocate(7, Everything())
