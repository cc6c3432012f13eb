"""The TCP sockets of a network namespace, and ending one that another process holds, as ``ss -K`` does.

The holder of an ended socket gets ECONNABORTED from its next call, the peer a reset. A socket is named by its cookie,
which the kernel never uses again: a later socket with the same addresses is not ended in its place.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from nodeagent.namespaces import diag
from nodeagent.namespaces.entry import OpenNamespace

MAX_SOCKETS: Final = 1 << 18
"""Of one family in one namespace that are looked at; more are told as an error, not left out in silence."""
ESTABLISHED: Final = 1
CLOSE_WAIT: Final = 8
LISTEN: Final = 10
_STATES: Final = sum(1 << state for state in (ESTABLISHED, 2, 4, 5, CLOSE_WAIT, 9, LISTEN, 11))
"""SYN_SENT, FIN_WAIT1, FIN_WAIT2, LAST_ACK and CLOSING too. Not SYN_RECV, which nobody holds yet, nor TIME_WAIT."""
_CGROUP_ID: Final = 21
_MAPPED: Final = bytes(10) + b"\xff\xff"
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i")
_ANSWER_BYTES: Final = 1 << 17
_BODY: Final = diag.HEADER.size + diag.MESSAGE.size
_ATTRIBUTES: Final = _BODY + diag.ENDS.size + diag.REST.size + diag.TAIL.size


End = tuple[bytes, int]
"""16 bytes (IPv4 as ``::ffff:a.b.c.d``, whatever the family of the socket) and a port."""


class TcpSocket(NamedTuple):
    """One socket."""

    family: int
    state: int
    local: End
    remote: End
    inode: int
    """0: nobody holds it; it waits for accept(), or every process has closed it."""
    uid: int
    cgroup: int
    """Of who made it, or its listener; 0 where the kernel does not tell (before 5.8)."""
    identity: bytes
    """The kernel's name for it."""


class CannotEndError(Exception):
    """Sockets cannot be ended here; the text says why and what to do."""


def tcp_sockets(namespace: OpenNamespace | None) -> list[TcpSocket]:
    """All that are listening, connecting or connected. OSError if the kernel does not answer."""
    found: list[TcpSocket] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        with diag.asker(namespace) as asker:
            asker.sendto(diag.question(diag.BY_FAMILY, diag.F_DUMP, family, _STATES, bytes(48)), (0, 0))
            before = len(found)
            for message in _messages(asker):
                if len(found) - before >= MAX_SOCKETS:
                    raise OSError(errno.E2BIG, f"more than {MAX_SOCKETS} TCP sockets in one network namespace")
                found.append(_socket(message))
    return found


def end(namespace: OpenNamespace | None, sockets: Iterable[TcpSocket]) -> list[TcpSocket]:
    """Those of them that were still there, and are ended. CannotEndError if the kernel does not do that."""
    ended = []
    with diag.asker(namespace) as asker:
        for each in sockets:
            asker.sendto(diag.question(diag.DESTROY, diag.F_ACK, each.family, 0, each.identity), (0, 0))
            (error,) = _ERROR.unpack_from(asker.recv(8192), diag.HEADER.size)
            if error == 0:
                ended.append(each)
            elif -error == errno.EOPNOTSUPP:
                raise CannotEndError(
                    "this kernel cannot end the sockets of others (it was built without CONFIG_INET_DIAG_DESTROY);"
                    " restart the programs that hold them instead"
                )
            elif -error == errno.EPERM:
                raise CannotEndError("only root (CAP_NET_ADMIN) may end the sockets of others")
            elif -error != errno.ENOENT:
                raise CannotEndError(f"the kernel does not end a socket: {os.strerror(-error)}")
    return ended


def _messages(asker: socket.socket) -> Iterator[bytes]:
    while True:
        data = asker.recv(_ANSWER_BYTES)
        offset = 0
        while offset + diag.HEADER.size <= len(data):
            size, kind, _, _, _ = diag.HEADER.unpack_from(data, offset)
            if kind == diag.DONE:
                return
            if kind == diag.ERROR:
                (error,) = _ERROR.unpack_from(data, offset + diag.HEADER.size)
                raise OSError(-error, f"sock_diag refused: {os.strerror(-error)}")
            yield data[offset : offset + size]
            offset += max(size + 3 & ~3, diag.HEADER.size)


def _socket(message: bytes) -> TcpSocket:
    family, state, _, _ = diag.MESSAGE.unpack_from(message, diag.HEADER.size)
    source_port, target_port, source, target = diag.ENDS.unpack_from(message, _BODY)
    _, _, _, uid, inode = diag.TAIL.unpack_from(message, _BODY + diag.ENDS.size + diag.REST.size)
    identity = message[_BODY : _BODY + diag.ENDS.size + diag.REST.size]
    local, remote = (_address(family, source), source_port), (_address(family, target), target_port)
    return TcpSocket(family, state, local, remote, inode, uid, _cgroup(message), identity)


def _address(family: int, packed: bytes) -> bytes:
    return _MAPPED + packed[:4] if family == socket.AF_INET else packed


def _cgroup(message: bytes) -> int:
    offset = _ATTRIBUTES
    while offset + _ATTRIBUTE.size <= len(message):
        size, kind = _ATTRIBUTE.unpack_from(message, offset)
        if kind == _CGROUP_ID:
            return int.from_bytes(message[offset + 4 : offset + 12], sys.byteorder)
        offset += max(size + 3 & ~3, _ATTRIBUTE.size)
    return 0
