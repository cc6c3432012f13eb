"""Whether anybody still holds the other end of a connection inside one namespace: the kernel's sock_diag answers.

``linux/inet_diag.h``, ``linux/sock_diag.h``: one exact question, one answer. A socket that every process has closed is
an orphan: the kernel still sends what is in it, and its inode is 0.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import Final

from nodeagent.namespaces.entry import Held, enter

ANSWER_SECONDS: Final = 0.5
"""The kernel answers within the call; this only bounds a defect."""
_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST: Final = 1
_NLMSG_ERROR: Final = 2
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBBI")
_ID = struct.Struct("!HH16s16s")
_ANY_INTERFACE_AND_COOKIE = struct.pack("=IQ", 0, 0xFFFF_FFFF_FFFF_FFFF)
_INODE_OFFSET: Final = _HEADER.size + 4 + _ID.size + len(_ANY_INTERFACE_AND_COOKIE) + 16
"""``idiag_inode`` is after the id, and expires, rqueue, wqueue and uid."""

Address = tuple[str, int]


def is_held(namespace: Held | None, theirs: Address, ours: Address) -> bool:
    """Whether a process has the socket with the address ``theirs`` that is connected to ``ours``, in the namespace
    (None: the agent's own). False: it was closed, or there is none. OSError if the kernel does not answer.
    """

    def make() -> socket.socket:
        return socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG)

    with make() if namespace is None else enter(namespace, make) as asker:
        asker.settimeout(ANSWER_SECONDS)
        asker.sendto(_question(theirs, ours), (0, 0))
        answer = asker.recv(8192)
    _, kind, _, _, _ = _HEADER.unpack_from(answer)
    if kind == _NLMSG_ERROR:
        (error,) = struct.unpack_from("=i", answer, _HEADER.size)
        if -error == errno.ENOENT:
            return False
        raise OSError(-error, f"sock_diag refused: {errno.errorcode.get(-error, error)}")
    (inode,) = struct.unpack_from("=I", answer, _INODE_OFFSET)
    return bool(inode)


def _question(theirs: Address, ours: Address) -> bytes:
    family = socket.AF_INET6 if ":" in theirs[0] else socket.AF_INET
    source, destination = (socket.inet_pton(family, ip).ljust(16, b"\0") for ip in (theirs[0], ours[0]))
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, 0xFFFF_FFFF)
    body += _ID.pack(theirs[1], ours[1], source, destination) + _ANY_INTERFACE_AND_COOKIE
    return _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0) + body
