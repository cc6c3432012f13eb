"""A connected application socket as an asyncio transport, on the worker's ``Poller``.

What can be written is written at once. A connection is let go in the order that asyncio promises: ``connection_lost``
comes once, last, and never from within a call of the protocol's.

Urgent data (``marks``) keeps its place in the stream: a protocol that is ``Urgent`` gets the urgent byte by itself,
between the bytes before it and those after it, and ``write_urgent`` sends one at its place in what is written.
"""

from __future__ import annotations

from asyncio import BaseProtocol, BufferedProtocol, Protocol, Transport
from collections import deque
from itertools import islice
from select import EPOLLERR, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP
from socket import MSG_MORE, MSG_OOB, SHUT_WR, SO_ERROR, SOL_SOCKET, socket
from typing import TYPE_CHECKING, Any, Final, cast

from nodeagent.net.marks import Chunk, Marks, Urgent, at_mark

if TYPE_CHECKING:
    from nodeagent.net.poller import Poller

MAX_READ: Final = 64 * 1024
"""For a protocol that has no buffer of its own."""
READS_AFTER_END: Final = 4
"""Reads in a row of what came before an end that is there already."""
PARTS_A_WRITE: Final = 64
_READ: Final = EPOLLIN | EPOLLPRI | EPOLLRDHUP
_UNREGISTERED: Final = -1


class SocketTransport(Transport):
    """Owns a connected, non-blocking socket."""

    __slots__ = (
        "_alert", "_buffered", "_closing", "_descriptor", "_ended", "_eof_wanted", "_error", "_events", "_high", "_low",
        "_marks", "_parts", "_paused", "_peername", "_poller", "_protocol", "_reading", "_socket", "_urgent",
        "_waiting",
    )  # fmt: skip

    def __init__(self, poller: Poller, connected: socket, protocol: BaseProtocol, peername: Any = None) -> None:
        """Nothing happens before ``start``."""
        self._poller = poller
        self._socket = connected
        self._descriptor = connected.fileno()
        self._peername = peername
        self._events = _UNREGISTERED
        self._reading = True
        self._ended = False  # the peer will send no more
        self._closing = False
        self._eof_wanted = False
        self._error: OSError | None = None
        self._parts: deque[Chunk] = deque()
        self._waiting = 0
        self._marks: Marks | None = None
        """Which of the parts that wait are urgent."""
        self._alert = False
        """An urgent byte is in the stream, at or after the next read."""
        self._paused = False
        self._high, self._low = 64 * 1024, 16 * 1024
        self.set_protocol(protocol)

    def start(self) -> None:
        """Tell the protocol, and read. If the protocol fails the connection is lost."""
        try:
            self._protocol.connection_made(self)
        except BaseException:
            self.abort()
            raise
        if not self._closing:
            self._watch()

    # --- what is asked of a transport ---

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """``socket``, ``peername``, ``sockname``."""
        if name == "socket":
            return self._socket
        try:
            if name == "peername":
                return self._peername or self._socket.getpeername()
            return self._socket.getsockname() if name == "sockname" else default
        except OSError:
            return default

    def set_protocol(self, protocol: BaseProtocol) -> None:
        """Another protocol takes what comes from now on."""
        self._protocol = cast(Protocol, protocol)
        self._buffered = protocol if isinstance(protocol, BufferedProtocol) else None
        self._urgent = cast(Urgent, protocol) if hasattr(protocol, "urgent_received") else None

    def get_protocol(self) -> BaseProtocol:
        """Who is told."""
        return self._protocol

    def is_closing(self) -> bool:
        """Whether it is closed, or will be when what waits was written."""
        return self._closing

    def is_reading(self) -> bool:
        """Whether bytes are taken from the peer."""
        return self._reading and not self._closing and not self._ended

    def pause_reading(self) -> None:
        """Take none until ``resume_reading``."""
        if self._reading:
            self._reading = False
            self._watch()

    def resume_reading(self) -> None:
        """Take bytes again; never from within this call."""
        if not self._reading:
            self._reading = True
            self._watch()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """When the protocol is told to pause, and to go on."""
        if high is None:
            high = 64 * 1024 if low is None else 4 * low
        self._high, self._low = high, high // 4 if low is None else low
        self._pause_if_much()

    def get_write_buffer_size(self) -> int:
        """Octets that wait."""
        return self._waiting

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Low and high."""
        return self._low, self._high

    def write(self, data: Chunk, *, last: bool = False) -> None:
        """Write what the socket takes; the rest waits, as a copy if it is a ``memoryview``. ``last``: ``write_eof``
        follows at once, and the kernel waits with the bytes to send the end in the same segment.
        """
        if self._eof_wanted:
            raise RuntimeError("Cannot call write() after write_eof()")  # as asyncio has it
        if self._closing:
            return
        if self._waiting:
            self._wait_with(data, 0)
            self._pause_if_much()
            return
        try:
            sent = self._socket.send(data, MSG_MORE) if last else self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._fail(error)
            return
        if sent < len(data):
            self._wait_with(data, sent)
            self._watch()
            self._pause_if_much()

    def write_urgent(self, data: bytes) -> None:
        """Write one byte as urgent data, after what was written before it."""
        if self._closing or self._eof_wanted:
            return
        if not self._waiting:
            try:
                self._socket.send(data, MSG_OOB)
                return
            except BlockingIOError:
                pass
            except OSError as error:
                self._fail(error)
                return
        if self._marks is None:
            self._marks = Marks()
        self._marks.add(self._waiting)
        self._wait_with(data, 0)
        self._watch()
        self._pause_if_much()

    def write_eof(self) -> None:
        """No more is written after what waits."""
        if self._closing or self._eof_wanted:
            return
        self._eof_wanted = True
        if not self._waiting:
            self._shut_down()

    def can_write_eof(self) -> bool:
        """It can."""
        return True

    def close(self) -> None:
        """Close when what waits was written; nothing more is read."""
        if self._closing:
            return
        self._closing = True
        if self._waiting:
            self._watch()
        else:
            self._let_go()

    def abort(self) -> None:
        """Close now; what waits is dropped."""
        if self._descriptor >= 0:
            self._closing = True
            self._let_go()

    # --- what the poller tells ---

    def ready(self, events: int) -> None:
        """See ``poller.Watched``."""
        if events == EPOLLIN and self._reading:  # as a rule
            self._read(1)
            return
        if events & EPOLLOUT and self._waiting:
            self._write_waiting()
        if not events & ~EPOLLOUT or self._closing:
            if events & EPOLLERR:
                self._fail(None)
        elif self._reading and not self._ended:
            if events & EPOLLPRI:
                self._alert = True
                self._watch()
            self._read(READS_AFTER_END if events & EPOLLRDHUP else 1)
        elif events & EPOLLERR:
            self._fail(None)
        elif events & ~_READ & ~EPOLLOUT and not self._waiting:  # a hang-up would be told again and again
            self._poller.remove(self._descriptor)
            self._events = _UNREGISTERED

    def bury(self) -> None:
        """See ``poller.Watched``."""
        self._socket.close()
        error, self._error = self._error, None  # its traceback leads back here
        self._protocol.connection_lost(error)

    # --- inside ---

    def _read(self, reads: int) -> None:
        while reads and self._reading and not self._closing:
            reads -= 1
            if self._alert and self._read_mark():
                return
            buffered = self._buffered
            try:
                if buffered is not None:
                    taken = self._socket.recv_into(buffered.get_buffer(-1))
                else:
                    data = self._socket.recv(MAX_READ)
                    taken = len(data)
            except BlockingIOError:
                return
            except OSError as error:
                self._fail(error)
                return
            if not taken:
                self._end()
                return
            if buffered is not None:
                buffered.buffer_updated(taken)
            else:
                self._protocol.data_received(data)

    def _read_mark(self) -> bool:
        """Take the urgent byte if it is next. False: it is not, and a read ends before it."""
        urgent = self._urgent
        try:
            if not at_mark(self._socket) or (urgent is not None and urgent.reads_past_tcp()):
                return False
            if urgent is not None and not urgent.urgent_due():
                return True
            data = self._socket.recv(1)
        except BlockingIOError:
            return True
        except OSError as error:
            self._fail(error)
            return True
        self._alert = False
        if not data:
            self._end()
            return True
        if urgent is not None:
            urgent.urgent_received(data)
        self._watch()
        return True

    def _end(self) -> None:
        self._ended = True
        if not self._protocol.eof_received():
            self.close()
        if not self._closing:
            self._watch()

    def _watch(self) -> None:
        """Have the poller tell what is of use now."""
        if self._descriptor < 0:
            return
        events = _READ if self._reading and not self._ended and not self._closing else 0
        if self._alert:  # known; the kernel would repeat it until the byte is read
            events &= ~EPOLLPRI
        if self._waiting:
            events |= EPOLLOUT
        if events == self._events:
            return
        try:
            if self._events == _UNREGISTERED:
                self._poller.add(self._descriptor, self, events)
            else:
                self._poller.change(self._descriptor, events)
        except OSError as error:  # the kernel's limit of what may be watched: better no connection than one that hangs
            self._fail(error)
            return
        self._events = events

    def _wait_with(self, data: Chunk, sent: int) -> None:
        rest = data if type(data) is bytes and not sent else bytes(memoryview(data)[sent:])
        self._parts.append(rest)
        self._waiting += len(rest)

    def _pause_if_much(self) -> None:
        if self._waiting > self._high and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def _write_waiting(self) -> None:
        parts = self._parts
        try:
            if self._marks is None:
                sent = self._socket.sendmsg(islice(parts, PARTS_A_WRITE))
            else:
                sent = self._marks.send(self._socket, parts, PARTS_A_WRITE)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(error)
            return
        self._waiting -= sent
        while sent:
            part = parts.popleft()
            if sent < len(part):
                parts.appendleft(memoryview(part)[sent:])
                break
            sent -= len(part)
        if not self._waiting:
            self._all_written()
        if self._paused and self._waiting <= self._low and self._descriptor >= 0:
            self._paused = False
            self._protocol.resume_writing()

    def _all_written(self) -> None:
        if self._eof_wanted and not self._closing:
            self._shut_down()
        if self._closing:
            self._let_go()
        else:
            self._watch()

    def _shut_down(self) -> None:
        try:
            self._socket.shutdown(SHUT_WR)
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError | None) -> None:
        """The connection is lost; ``error`` None: the socket says why. The kernel says it once, so nothing is read
        after it: that would look like an end.
        """
        if self._descriptor < 0:
            return
        if error is None:
            number = self._socket.getsockopt(SOL_SOCKET, SO_ERROR)
            error = OSError(number, "the connection was lost")
        self._error = error
        self._closing = True
        self._let_go()

    def _let_go(self) -> None:
        if self._descriptor < 0:
            return
        descriptor, self._descriptor = self._descriptor, -1
        self._parts.clear()
        self._waiting = 0
        self._poller.doom(descriptor, self)
