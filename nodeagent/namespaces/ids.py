"""The small number that one network namespace has inside another: BPF programs name a namespace by it to look for a
socket there.

``linux/net_namespace.h``. The kernel assigns it on request and takes it back with the namespace; ``ip netns list-id``
shows it. Having a number keeps no namespace alive.

By hand: workers ask in the thread of their event loop, where pyroute2's blocking sockets do not work ("this event loop
is already running"), nor do its asyncio ones (uvloop has no transport for AF_NETLINK). A question takes 9 us of CPU
here and 590 us there; importing pyroute2 takes 0.1 s and 10 MB in each worker.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Final

from nodeagent.namespaces.entry import OpenNamespace

ANSWER_SECONDS: Final = 0.5
"""The kernel answers within the call; this only bounds a defect."""
_RTM_NEWNSID: Final = 88
_RTM_GETNSID: Final = 90
_NLMSG_ERROR: Final = 2
_NLM_F_REQUEST: Final = 1
_NLM_F_ACK: Final = 4
_NETNSA_NSID: Final = 1
_NETNSA_FD: Final = 3
_NONE: Final = -1
_HEADER = struct.Struct("=IHHII")
_FAMILY = struct.Struct("=Bxxx")
_ATTRIBUTE = struct.Struct("=HHi")


def id_here(namespace: OpenNamespace) -> int:
    """Its number in the calling thread's namespace, assigned now if it has none. OSError if it cannot have one."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as asker:
        asker.settimeout(ANSWER_SECONDS)
        found = _id(asker, namespace)
        if found == _NONE:
            attributes = _ATTRIBUTE.pack(8, _NETNSA_NSID, _NONE) + _ATTRIBUTE.pack(8, _NETNSA_FD, namespace.fd)
            error, _ = _ask(asker, _RTM_NEWNSID, _NLM_F_ACK, attributes)
            if error not in (0, errno.EEXIST):  # another worker may have been first
                raise OSError(error, f"the network namespace cannot be given a number: {os.strerror(error)}")
            found = _id(asker, namespace)
    if found == _NONE:
        raise OSError(errno.ENOENT, "the network namespace has no number here")
    return found


def _id(asker: socket.socket, namespace: OpenNamespace) -> int:
    error, answer = _ask(asker, _RTM_GETNSID, 0, _ATTRIBUTE.pack(8, _NETNSA_FD, namespace.fd))
    if error:
        raise OSError(error, f"the network namespace cannot be asked for its number: {os.strerror(error)}")
    offset = _HEADER.size + _FAMILY.size
    while offset + _ATTRIBUTE.size <= len(answer):
        size, kind, value = _ATTRIBUTE.unpack_from(answer, offset)
        if kind == _NETNSA_NSID:
            return int(value)
        offset += max(size, _ATTRIBUTE.size)
    return _NONE


def _ask(asker: socket.socket, kind: int, flags: int, attributes: bytes) -> tuple[int, bytes]:
    """The kernel's error number, or 0 and its message."""
    body = _FAMILY.pack(socket.AF_UNSPEC) + attributes
    asker.sendto(_HEADER.pack(_HEADER.size + len(body), kind, _NLM_F_REQUEST | flags, 1, 0) + body, (0, 0))
    answer = asker.recv(8192)
    if _HEADER.unpack_from(answer)[1] == _NLMSG_ERROR:
        return -struct.unpack_from("=i", answer, _HEADER.size)[0], b""
    return 0, answer
