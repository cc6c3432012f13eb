"""Whether anybody still holds the other end of a connection inside one namespace: the kernel's sock_diag answers.

One exact question, one answer. A socket that every process has closed is an orphan: the kernel still sends what is in
it, and its inode is 0.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import Final

from nodeagent.namespaces import diag
from nodeagent.namespaces.entry import OpenNamespace

_INODE_OFFSET: Final = diag.HEADER.size + diag.MESSAGE.size + diag.ENDS.size + diag.REST.size + 16
"""``idiag_inode`` is after the id, and expires, rqueue, wqueue and uid."""

Address = tuple[str, int]


def is_held(namespace: OpenNamespace | None, theirs: Address, ours: Address) -> bool:
    """Whether a process has the socket with the address ``theirs`` that is connected to ``ours``, in the namespace
    (None: the agent's own). False: it was closed, or there is none. OSError if the kernel does not answer.
    """
    with diag.asker(namespace) as asker:
        asker.sendto(_question(theirs, ours), (0, 0))
        answer = asker.recv(8192)
    _, kind, _, _, _ = diag.HEADER.unpack_from(answer)
    if kind == diag.ERROR:
        (error,) = struct.unpack_from("=i", answer, diag.HEADER.size)
        if -error == errno.ENOENT:
            return False
        raise OSError(-error, f"sock_diag refused: {errno.errorcode.get(-error, error)}")
    (inode,) = struct.unpack_from("=I", answer, _INODE_OFFSET)
    return bool(inode)


def _question(theirs: Address, ours: Address) -> bytes:
    family = socket.AF_INET6 if ":" in theirs[0] else socket.AF_INET
    source, destination = (socket.inet_pton(family, ip).ljust(16, b"\0") for ip in (theirs[0], ours[0]))
    identity = diag.ENDS.pack(theirs[1], ours[1], source, destination) + diag.ANY_REST
    return diag.question(diag.BY_FAMILY, 0, family, 0xFFFF_FFFF, identity)
