"""The one door to sockets: listeners, and connections that the agent opens.

Every socket towards an application carries SO_LINGER(1, 0) until its orderly end, so that the death of the agent is a
reset to the application and never looks like the end of its stream. An accepted socket inherits it from its listener.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import os
import socket
import struct
from asyncio import AbstractEventLoop, BaseProtocol, BaseTransport, Server
from collections.abc import Callable, Sequence
from select import EPOLLIN, EPOLLOUT
from typing import Any, Final, Protocol, TypeVar

from control.wire.address import SocketAddress, canonical_ip
from nodeagent.reasons import Reason
from nodeagent.relay.io.poller import Poller
from nodeagent.relay.io.transport import SocketTransport

BACKLOG: Final = 4096
CONNECT_TIMEOUT_SECONDS: Final = 10.0
SPLICED_BUFFER: Final = 128 * 1024
ACCEPTED_AT_ONCE: Final = 64
"""Connections that a listener takes before others have their turn."""
ACCEPT_PAUSE_SECONDS: Final = 1.0
"""After the system had no descriptor or memory for a connection."""
_SO_ATTACH_REUSEPORT_CBPF: Final = 51
_SKF_AD_RANDOM: Final = 0xFFFF_F000 + 56
_QUIET: Final = struct.Struct("=44xIII")
"""Of ``struct tcp_info`` (linux/tcp.h): tcpi_last_data_sent, tcpi_last_ack_sent, tcpi_last_data_recv."""
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_ORDERLY_CLOSE = struct.pack("ii", 0, 0)

_log = logging.getLogger("nodeagent.relay")

P = TypeVar("P", bound=BaseProtocol)


class Listener(Protocol):
    """What is listened on: an ``asyncio.Server``, or an ``AppListener``."""

    @property
    def sockets(self) -> Sequence[Any]:
        """The listening sockets."""

    def close(self) -> None:
        """Accept no more."""


class ListenError(OSError):
    """A port could not be opened; the message names it and says what to do."""


async def listen(loop: AbstractEventLoop, factory: Callable[[], BaseProtocol], address: SocketAddress) -> Server:
    """Open a listener for tunnels that this worker shares with its siblings (SO_REUSEPORT). ``::`` is dual stack."""
    listener = _Listening(address)
    try:
        listener.open(address)
        return await loop.create_server(factory, sock=listener, backlog=BACKLOG)
    except OSError as error:
        raise _cannot_listen(listener, address, error) from error


def listen_for_apps(poller: Poller, factory: Callable[[], BaseProtocol], address: SocketAddress) -> AppListener:
    """As ``listen``, for connections of applications: closing one resets it until its orderly end."""
    listener = _Listening(address)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)  # accepted sockets inherit both
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.open(address)
        listener.listen(BACKLOG)
        return AppListener(poller, listener, factory)
    except OSError as error:
        raise _cannot_listen(listener, address, error) from error


def _cannot_listen(listener: socket.socket, address: SocketAddress, error: OSError) -> ListenError:
    listener.close()
    what = "another program listens there" if error.errno == errno.EADDRINUSE else error.strerror
    return ListenError(error.errno or 0, f"cannot listen on {address}: {what}; free the port or configure another")


class _Listening(socket.socket):
    """A listening socket to be."""

    def __init__(self, address: SocketAddress) -> None:
        self.accepts = socket.AF_INET6 if address.family == 6 else socket.AF_INET
        super().__init__(self.accepts, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)

    def open(self, address: SocketAddress) -> None:
        """Bind it."""
        self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if address.family == 6:
            self.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address.ip != "::")
        self.bind(tuple(address))

    def take(self) -> tuple[socket.socket, Any]:
        """``accept``, of a non-blocking socket and without a look at what is known."""
        descriptor, peername = self._accept()  # type: ignore[attr-defined]  # what accept() calls
        accepted = socket.socket(self.accepts, socket.SOCK_STREAM, 0, descriptor)
        accepted.setblocking(False)
        return accepted, peername


class AppListener:
    """Accepts connections of applications, as many at a time as there are."""

    def __init__(self, poller: Poller, listener: _Listening, factory: Callable[[], BaseProtocol]) -> None:
        self._poller = poller
        self._listener = listener
        self._factory = factory
        self._descriptor = listener.fileno()
        poller.add(self._descriptor, self, EPOLLIN)

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The listening socket."""
        return (self._listener,)

    def ready(self, _events: int) -> None:
        """Somebody waits."""
        for _ in range(ACCEPTED_AT_ONCE):
            if self._descriptor < 0:  # closed by what a connection led to
                return
            try:
                accepted, peername = self._listener.take()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                self._pause(error)
                return
            SocketTransport(self._poller, accepted, self._factory(), peername).start()

    def _pause(self, error: OSError) -> None:
        _log.error("no connection can be accepted for %.0f s: %s", ACCEPT_PAUSE_SECONDS, error)
        self._poller.remove(self._descriptor)
        self._poller.loop.call_later(ACCEPT_PAUSE_SECONDS, self._go_on)

    def _go_on(self) -> None:
        if self._descriptor >= 0:
            self._poller.add(self._descriptor, self, EPOLLIN)

    def abort(self) -> None:
        """A defect with one connection: the listener goes on."""

    def close(self) -> None:
        """Accept no more."""
        if self._descriptor >= 0:
            self._poller.remove(self._descriptor)
            self._descriptor = -1
            self._listener.close()

    def bury(self) -> None:
        """Never doomed."""


def spread(server: Listener, workers: int) -> None:
    """New connections to this address go to the first so many of the workers that listen there, at random.

    A classic BPF program on the SO_REUSEPORT group; one member sets it for all. With fewer listeners than that the
    kernel's own choice, by hash, stands.
    """
    program = _random_below(workers)  # the kernel reads it through the pointer, during the call
    for handle in server.sockets:
        handle.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, struct.pack("@HP", 3, ctypes.addressof(program))
        )


def _random_below(count: int) -> ctypes.Array[ctypes.c_char]:
    """Instructions (linux/filter.h): load a random number, modulo ``count``, return it."""
    instructions = ((0x20, _SKF_AD_RANDOM), (0x94, count), (0x16, 0))
    return ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", code, 0, 0, k) for code, k in instructions))


async def dial(loop: AbstractEventLoop, factory: Callable[[], P], address: SocketAddress) -> P:
    """Connect a tunnel within CONNECT_TIMEOUT_SECONDS; OSError or TimeoutError where that fails (see
    ``connect_reason``).
    """
    async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
        _, protocol = await loop.create_connection(factory, address.ip, address.port)
    return protocol


async def dial_app(
    poller: Poller,
    factory: Callable[[], P],
    address: SocketAddress,
    before: Callable[[int], None] | None = None,
    *,
    spliced: bool = False,
) -> P:
    """Connect to an application, as ``dial``. On this host that is done before it waits for anything (see
    ``Tasks.start``).

    ``before`` is told the descriptor before the connection is begun; ``spliced``: the flow may be.
    """
    family = socket.AF_INET6 if address.family == 6 else socket.AF_INET
    connecting = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        connecting.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if spliced:
            _small_buffers(connecting)
        if before is not None:
            before(connecting.fileno())
        if not _connects(connecting, address):
            await _connected(poller, connecting, address)
        protocol = factory()
    except BaseException:
        connecting.close()
        raise
    SocketTransport(poller, connecting, protocol).start()
    return protocol


def _connects(connecting: socket.socket, address: SocketAddress) -> bool:
    """Begin to connect, or go on; whether it is done. OSError.

    On loopback, and over a veth pair, the handshake is over when ``connect`` returns: the second call says so.
    """
    for _ in range(2):
        number = connecting.connect_ex(address)
        if number in (0, errno.EISCONN):
            return True
        if number == errno.EALREADY:
            return False
        if number != errno.EINPROGRESS:
            raise OSError(number, os.strerror(number))
    return False


async def _connected(poller: Poller, connecting: socket.socket, address: SocketAddress) -> None:
    await asyncio.sleep(0)  # what follows needs a task: see Tasks.start
    waiting = _Connecting(poller, connecting.fileno())
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
            while not _connects(connecting, address):
                await waiting.writable()
    finally:
        poller.remove(connecting.fileno())


class _Connecting:
    """A connection that is being made."""

    def __init__(self, poller: Poller, descriptor: int) -> None:
        self._loop = poller.loop
        self._writable = self._loop.create_future()
        poller.add(descriptor, self, EPOLLOUT)

    async def writable(self) -> None:
        """Until the kernel has news."""
        await self._writable
        self._writable = self._loop.create_future()

    def ready(self, _events: int) -> None:
        """There are some."""
        if not self._writable.done():
            self._writable.set_result(None)

    def abort(self) -> None:
        """The dial ends by its time."""

    def bury(self) -> None:
        """Never doomed."""


def connect_reason(error: BaseException) -> Reason:
    """Why a ``dial`` failed, in the words of the log."""
    if isinstance(error, TimeoutError):
        return Reason.CONNECT_TIMEOUT
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.ECONNREFUSED:
        return Reason.CONNECT_REFUSED
    if number in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL):
        return Reason.CONNECT_UNREACHABLE
    return Reason.CONNECT_TIMEOUT if number == errno.ETIMEDOUT else Reason.CONNECT_FAILED


def small_buffers(transport: BaseTransport) -> None:
    """Let little wait in the agent's socket of a flow that may be spliced: all of it has to be read before it is."""
    handle = transport.get_extra_info("socket")
    if handle is not None:
        _small_buffers(handle)


def _small_buffers(handle: socket.socket) -> None:
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        handle.setsockopt(socket.SOL_SOCKET, option, SPLICED_BUFFER)


def quiet_seconds(transport: BaseTransport) -> float:
    """Seconds since the socket last sent or received data (TCP_INFO: milliseconds, give or take a tick)."""
    handle = transport.get_extra_info("socket")
    try:
        info = handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _QUIET.size)
    except (AttributeError, OSError):
        return 0.0  # the socket is gone: its flow ends for another reason
    sent, _, received = _QUIET.unpack(info)
    return float(min(sent, received)) / 1000


def orderly_close(transport: BaseTransport) -> None:
    """From now on closing the socket ends the connection in order, after what waits was sent."""
    handle = transport.get_extra_info("socket")
    if handle is None:
        return
    try:
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ORDERLY_CLOSE)
    except OSError:
        return  # the socket is gone already: there is nothing to end


def remote_address(transport: BaseTransport) -> SocketAddress | None:
    """The other end, canonical; None if the connection is gone already."""
    return _address(transport.get_extra_info("peername"))


def local_address(transport: BaseTransport) -> SocketAddress | None:
    """This end, canonical; None if the connection is gone already."""
    return _address(transport.get_extra_info("sockname"))


def _address(name: Any) -> SocketAddress | None:
    return SocketAddress(canonical_ip(name[0].partition("%")[0]), name[1]) if name else None
