"""Who is at the other end of a UNIX socket, as the kernel says."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
from typing import Final

from nodeagent.capture.held import Held

SO_PEERPIDFD: Final = 77
"""``asm-generic/socket.h``; Python has no name for it. Linux 6.5."""
_CREDENTIALS = struct.Struct("iII")


def peer_user(connection: socket.socket) -> int:
    """uid of the process that called connect() or listen() at the other end."""
    return credentials(connection)[1]


def credentials(connection: socket.socket) -> tuple[int, int]:
    """Process and user at the other end; the process is 0 if it is in a PID namespace that cannot be seen from here."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return pid, uid


class Peer:
    """The process that called connect(). ``close`` it."""

    def __init__(self, connection: socket.socket) -> None:
        self.pid, self.uid = credentials(connection)
        self._pidfd = _pidfd(connection, self.pid)

    @property
    def visible(self) -> bool:
        """Whether ``held`` can look at it."""
        return self._pidfd >= 0

    @property
    def privileged(self) -> bool:
        """Whether it is root, or the user that this process is."""
        return self.uid in (0, os.geteuid())

    def held(self, uid: int | None) -> Held:
        """Where the process is, for the user that it is going to be. OSError or CgroupError if it has ended."""
        held = Held.process(self.pid, f"process {self.pid}", uid)
        if select.select([self._pidfd], [], [], 0)[0]:
            # what was read may be another's that was given the number
            raise ProcessLookupError(f"process {self.pid} has ended")
        return held

    def close(self) -> None:
        """Let go of the process."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def _pidfd(connection: socket.socket, pid: int) -> int:
    """Of the very process where the kernel can say so, else of the one that has its number now; -1 if there is none."""
    if pid <= 0:
        return -1
    with contextlib.suppress(OSError):
        return connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    with contextlib.suppress(OSError):
        return os.pidfd_open(pid)
    return -1
