from __future__ import annotations

import socket

from control.wire.address import packed_ip
from nodeagent.capture.addresses import _ipv6, host_addresses


def test_loopback_is_the_hosts_and_documentation_is_not() -> None:
    found = host_addresses()
    assert packed_ip("127.0.0.1") in found and all(len(addr) == 16 for addr in found)
    assert packed_ip("192.0.2.1") not in found and packed_ip("2001:db8::1") not in found


def test_ipv6_addresses_are_read() -> None:
    text = (
        "00000000000000000000000000000001 01 80 10 80       lo\nfd770000000000000000000000000001 02 40 00 80    mesh0\n"
    )
    assert _ipv6(text) == {socket.inet_pton(socket.AF_INET6, ip) for ip in ("::1", "fd77::1")}
    assert _ipv6("") == set()
