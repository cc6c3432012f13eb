"""Urgent data of TCP (MSG_OOB): where it is in a stream that is read, and in one that waits to be written.

TCP keeps one urgent byte at a time, and marks its place in the stream. With SO_OOBINLINE the byte is read at that
place, and a read that begins before the place ends there, so nothing before or after it moves. A later urgent byte
makes an earlier one that was not read an ordinary byte of the stream, here as with any program that reads late.

A read that begins exactly at the place does not end after the byte: the place has to be asked for first. EPOLLPRI is
reported with the urgent byte or before it, and a byte that is in the queue already never becomes urgent
(``tcp_check_urg`` ignores such a pointer), so only sockets that reported EPOLLPRI are asked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from fcntl import ioctl
from itertools import islice
from socket import MSG_OOB, socket
from typing import Final, Protocol

Chunk = bytes | bytearray | memoryview
"""What may be written; a ``memoryview`` is lent for the call."""
_SIOCATMARK: Final = 0x8905
_NO: Final = bytes(4)


class Urgent(Protocol):
    """A protocol that carries urgent data on. For any other the urgent byte is dropped."""

    def urgent_due(self) -> bool:
        """The next byte is urgent. True: read it. False: it stays unread, and reading was paused."""

    def urgent_received(self, data: bytes) -> None:
        """The urgent byte."""

    def reads_past_tcp(self) -> bool:
        """Whether bytes wait that the socket reads before those of TCP: the mark is behind them."""


def at_mark(handle: socket) -> bool:
    """Whether the next byte of TCP is the urgent one."""
    return ioctl(handle.fileno(), _SIOCATMARK, _NO) != _NO


class Marks:
    """Urgent bytes among the parts that wait to be written; each is a part of its own."""

    __slots__ = ("_before",)

    def __init__(self) -> None:
        self._before: deque[int] = deque()
        """Octets that wait before each."""

    def add(self, before: int) -> None:
        """The next part is urgent; so many octets wait before it."""
        self._before.append(before)

    def send(self, handle: socket, parts: Sequence[Chunk], most: int) -> int:
        """Send up to ``most`` parts: those before the first urgent byte, or that byte. How many octets were sent."""
        marks = self._before
        if not marks:
            return handle.sendmsg(list(islice(parts, most)))
        if not marks[0]:
            sent = handle.send(parts[0], MSG_OOB)
            marks.popleft()
        else:
            sent = handle.sendmsg(self._up_to_mark(parts, most))
        for index in range(len(marks)):
            marks[index] -= sent
        return sent

    def _up_to_mark(self, parts: Sequence[Chunk], most: int) -> list[Chunk]:
        found: list[Chunk] = []
        octets = 0
        for part in islice(parts, most):
            if octets >= self._before[0]:
                break
            found.append(part)
            octets += len(part)
        return found
