"""The address from which a network namespace speaks to others."""

from __future__ import annotations

import array
import contextlib
import fcntl
import socket
import struct
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple

from nodeagent.namespaces.entry import NamespaceError, OpenNamespace, enter

_SOMEWHERE: Final = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Documentation addresses (RFC 5737, RFC 3849): only routes are asked for the way there, nothing is sent."""
_SIOCGIFCONF: Final = 0x8912
_INTERFACE_BYTES: Final = 40
"""Of a ``struct ifreq`` (64 bits): a name of 16 bytes, then a ``struct sockaddr_in``."""
_MAX_INTERFACES: Final = 256
"""IPv4 addresses that are looked at; further ones are not seen."""
_IF_INET6: Final = Path("/proc/thread-self/net/if_inet6")
_NOT_YET: Final = 0x40 | 0x08
"""Tentative, or a duplicate: IFA_F_* of linux/if_addr.h."""


class Sources(NamedTuple):
    """Of both families; empty where there is none."""

    v4: str = ""
    v6: str = ""


NO_SOURCES: Final = Sources()
"""Of a namespace that speaks to nobody."""


def sources(namespace: OpenNamespace | None) -> Sources:
    """By the default route, else the first address of an interface (None: of the calling thread's namespace)."""

    def look() -> Sources:
        return Sources(_routed(socket.AF_INET) or _first_v4(), _routed(socket.AF_INET6) or _first_v6())

    try:
        return look() if namespace is None else enter(namespace, look)
    except (OSError, NamespaceError):
        return NO_SOURCES


def _routed(family: socket.AddressFamily) -> str:
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((_SOMEWHERE[family], 53))
        return _usable(probe.getsockname()[0])
    return ""


def _first_v4() -> str:
    buffer = array.array("B", bytes(_INTERFACE_BYTES * _MAX_INTERFACES))
    address, length = buffer.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, _SIOCGIFCONF, struct.pack("iL", length, address))
    (used,) = struct.unpack_from("i", answer)
    found = buffer.tobytes()
    texts = (socket.inet_ntoa(found[at + 20 : at + 24]) for at in range(0, used, _INTERFACE_BYTES))
    return next(filter(None, map(_usable, texts)), "")


def _first_v6() -> str:
    if not _IF_INET6.exists():
        return ""
    rows = (line.split() for line in _IF_INET6.read_text().splitlines())
    texts = (socket.inet_ntop(socket.AF_INET6, bytes.fromhex(row[0])) for row in rows if not int(row[4], 16) & _NOT_YET)
    return next(filter(None, map(_usable, texts)), "")


def _usable(text: str) -> str:
    address = ip_address(text)
    return "" if address.is_loopback or address.is_link_local or address.is_unspecified else text
