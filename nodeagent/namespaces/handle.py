"""A network namespace that is held open, and the kernel's number for it."""

from __future__ import annotations

import functools
import os
import socket
import sys
from pathlib import Path

from nodeagent.namespaces.entry import NamespaceError, enter_descriptor
from nodeagent.namespaces.ids import id_here

SO_NETNS_COOKIE = 71
"""``asm-generic/socket.h``; Python has no name for it. Linux 5.14."""


class Namespace:
    """One network namespace. While it is open the namespace lives on, even if nobody else is in it: ``close`` it.

    ``cookie`` is never used again, not even when the namespace is gone: it is the key wherever the kernel and the
    agent speak of namespaces. ``inode`` is what ``ls -l /proc/PID/ns/net`` and ``lsns`` show; it may be used again.
    """

    __slots__ = ("_id", "cookie", "fd", "inode")

    def __init__(self, fd: int) -> None:
        """Takes over the descriptor, also where it fails. NamespaceError if it is no network namespace."""
        self.fd = fd
        self._id: int | None = None
        try:
            self.inode = os.fstat(fd).st_ino
            self.cookie = enter_descriptor(fd, current_cookie)
        except BaseException:
            os.close(fd)
            self.fd = -1
            raise

    @classmethod
    def open(cls, path: str | Path) -> Namespace:
        """From ``/proc/PID/ns/net``, ``/run/netns/NAME``, or the descriptor of another process that holds one
        (``path_for_others``). NamespaceError if it is gone or cannot be entered.
        """
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise NamespaceError(f"the network namespace {path} cannot be opened: {error.strerror}") from error
        return cls(fd)

    @property
    def path_for_others(self) -> str:
        """Where another process of the same user opens it, for as long as this one has it open.

        The descriptor may meanwhile stand for another namespace: whoever opens it compares the cookie.
        """
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    @property
    def id_here(self) -> int:
        """Its number in the agent's own namespace, for programs of the kernel. OSError if it cannot have one."""
        if self._id is None:
            self._id = id_here(self)
        return self._id

    def close(self) -> None:
        """Let go; the namespace goes if nobody else is in it or holds it. Closing twice is harmless."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    @property
    def closed(self) -> bool:
        """Whether it was let go."""
        return self.fd < 0

    def __repr__(self) -> str:
        return f"Namespace(cookie={self.cookie}, inode={self.inode})"


def current_cookie() -> int:
    """The cookie of the namespace that this thread is in."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        return int.from_bytes(probe.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), sys.byteorder)


@functools.cache
def own() -> Namespace:
    """The namespace that this process lives in. Never close it."""
    return Namespace.open("/proc/thread-self/ns/net")
