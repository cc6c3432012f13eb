"""The kernel's sock_diag messages about TCP sockets (``linux/inet_diag.h``, ``linux/sock_diag.h``), and whom to ask."""

from __future__ import annotations

import socket
import struct
from typing import Final

from nodeagent.namespaces.entry import Held, enter

ANSWER_SECONDS: Final = 0.5
"""The kernel answers within the call; this only bounds a defect."""
BY_FAMILY: Final = 20
"""SOCK_DIAG_BY_FAMILY"""
DESTROY: Final = 21
"""SOCK_DESTROY"""
F_REQUEST: Final = 1
F_ACK: Final = 4
F_DUMP: Final = 0x300
ERROR: Final = 2
DONE: Final = 3
_NETLINK_SOCK_DIAG: Final = 4

HEADER = struct.Struct("=IHHII")
"""Length, kind, flags, sequence, port."""
REQUEST = struct.Struct("=BBBBI")
"""Family, protocol, extensions, padding, states."""
ENDS = struct.Struct("!HH16s16s")
"""Of a socket's id: source port, destination port, source, destination."""
REST = struct.Struct("=IQ")
"""Of a socket's id: interface, cookie."""
ANY_REST = REST.pack(0, 0xFFFF_FFFF_FFFF_FFFF)
MESSAGE = struct.Struct("=BBBB")
"""How an answer begins: family, state, timer, retransmissions. Ends and rest of the id follow, then the tail."""
TAIL = struct.Struct("=IIIII")
"""How it goes on: expires, receive queue, write queue, uid, inode. Attributes follow."""


def asker(namespace: Held | None) -> socket.socket:
    """A socket that asks about the sockets of this namespace (None: the calling thread's)."""

    def make() -> socket.socket:
        return socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG)

    made = make() if namespace is None else enter(namespace, make)
    made.settimeout(ANSWER_SECONDS)
    return made


def question(kind: int, flags: int, family: int, states: int, identity: bytes) -> bytes:
    """About TCP sockets of this family."""
    body = REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, states) + identity
    return HEADER.pack(HEADER.size + len(body), kind, F_REQUEST | flags, 1, 0) + body
