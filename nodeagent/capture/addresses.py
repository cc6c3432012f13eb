"""The addresses of the network namespace that the agent lives in: what "the node itself" means to a workload.

By hand: the manager asks every second, in the thread of its event loop. pyroute2's ``get_addr`` cannot run there (it
runs a loop of its own) and decodes in Python: with 1,000 addresses (virtual IPs of IPVS) it takes 68 ms of CPU, this 2.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
from pathlib import Path
from typing import Final

MAX_ADDRESSES: Final = 16384
"""The most IPv4 addresses that are seen."""
_SIOCGIFCONF: Final = 0x8912
_INTERFACE_BYTES: Final = 40
"""Of a ``struct ifreq`` (64 bits): a name of 16 bytes, then a ``struct sockaddr_in``."""
_IF_INET6: Final = Path("/proc/self/net/if_inet6")
_MAPPED = bytes(10) + b"\xff\xff"


def host_addresses() -> set[bytes]:
    """Every address of every interface, 16 bytes each. OSError if the kernel does not answer."""
    return _ipv4() | (_ipv6(_IF_INET6.read_text()) if _IF_INET6.exists() else set())


def _ipv4() -> set[bytes]:
    buffer = array.array("B", bytes(_INTERFACE_BYTES * MAX_ADDRESSES))
    address, length = buffer.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, _SIOCGIFCONF, struct.pack("iL", length, address))
    (used,) = struct.unpack_from("i", answer)
    found = buffer.tobytes()
    return {_MAPPED + found[at + 20 : at + 24] for at in range(0, used, _INTERFACE_BYTES)}


def _ipv6(text: str) -> set[bytes]:
    return {bytes.fromhex(line[:32]) for line in text.splitlines()}
