"""The one door to sockets: listeners, and connections that the agent opens.

Every socket towards an application carries SO_LINGER(1, 0) until its orderly end, so that the death of the agent is a
reset to the application and never looks like the end of its stream. An accepted socket inherits it from its listener.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from asyncio import AbstractEventLoop, BaseProtocol, BaseTransport, Server, Transport, timeout
from collections.abc import Callable
from typing import Any, Final, TypeVar

from cffi import FFI

from control.wire.address import SocketAddress, canonical_ip
from nodeagent.namespaces.entry import NamespaceError, enter
from nodeagent.namespaces.handle import Namespace
from nodeagent.reasons import Reason

BACKLOG: Final = 4096
CONNECT_TIMEOUT_SECONDS: Final = 10.0
SPLICED_BUFFER: Final = 128 * 1024
_SO_ATTACH_REUSEPORT_CBPF: Final = 51
_IP_FREEBIND: Final = 15
_IP_BIND_ADDRESS_NO_PORT: Final = 24
_SKF_AD_RANDOM: Final = 0xFFFF_F000 + 56
_QUIET: Final = struct.Struct("=44xIII")
"""Of ``struct tcp_info`` (linux/tcp.h): tcpi_last_data_sent, tcpi_last_ack_sent, tcpi_last_data_recv."""
_LINGER_BYTES: Final = 8
_ffi = FFI()
_ffi.cdef("int setsockopt(int fd, int level, int name, const void *value, unsigned int size);")
_libc: Any = _ffi.dlopen(None)  # the loop's own setsockopt makes a socket object first, which costs ten times the call
_RESET_ON_CLOSE = _ffi.new("int[2]", (1, 0))
_ORDERLY_CLOSE = _ffi.new("int[2]", (0, 0))

P = TypeVar("P", bound=BaseProtocol)


class ListenError(OSError):
    """A port could not be opened; the message names it and says what to do."""


async def listen(
    loop: AbstractEventLoop,
    factory: Callable[[], BaseProtocol],
    address: SocketAddress,
    *,
    reset_on_close: bool,
    inside: Namespace | None = None,
) -> Server:
    """Open a listener that this worker shares with its siblings (SO_REUSEPORT). ``::`` is dual stack.

    ``inside`` another network namespace than the agent's own it need not have the address yet: its loopback interface
    may still be down.
    """
    listener = _socket(address, inside)
    try:
        if inside is not None:
            listener.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address.ip != "::")
        if reset_on_close:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes(_ffi.buffer(_RESET_ON_CLOSE)))
        listener.bind(tuple(address))
        server = await loop.create_server(factory, sock=listener, backlog=BACKLOG)
        # On hosts where listen() makes every listener one for TCP Fast Open, the kernel would show connections before
        # the client's end is there to say whose they are.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 0)
        return server
    except OSError as error:
        listener.close()
        what = "another program listens there" if error.errno == errno.EADDRINUSE else error.strerror
        raise ListenError(
            error.errno or 0, f"cannot listen on {address}: {what}; free the port or configure another"
        ) from error


def make_inside(inside: Namespace) -> Callable[[socket.AddressFamily, int], socket.socket]:
    """How another room makes its sockets in the namespace of a workload. OSError where it cannot be entered."""

    def make(family: socket.AddressFamily, kind: int) -> socket.socket:
        made = _made(inside, lambda: socket.socket(family, kind))
        made.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        return made

    return make


def has_address(inside: Namespace | None, ip: str) -> bool:
    """Whether the network namespace has the address itself. OSError if it cannot be entered."""
    with _socket(SocketAddress(ip, 0), inside) as probe:
        try:
            probe.bind((ip, 0))
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            return False
    return True


def _socket(address: SocketAddress, inside: Namespace | None) -> socket.socket:
    """A TCP socket that can have the address; OSError, also where the namespace cannot be entered."""
    family = socket.AF_INET6 if address.family == 6 else socket.AF_INET

    return _made(inside, lambda: socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK))


def _made(inside: Namespace | None, make: Callable[[], socket.socket]) -> socket.socket:
    if inside is None:
        return make()
    try:
        return enter(inside, make)
    except NamespaceError as error:
        raise OSError(errno.ENETUNREACH, str(error)) from error


def spread(server: Server, workers: int) -> None:
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


async def dial(
    loop: AbstractEventLoop,
    factory: Callable[[], P],
    address: SocketAddress,
    before: Callable[[int], None] | None = None,
    *,
    spliced: bool = False,
    inside: Namespace | None = None,
    outward: bool = False,
) -> P:
    """Connect within CONNECT_TIMEOUT_SECONDS; OSError or TimeoutError where that fails (see ``connect_reason``).

    ``before`` is told the descriptor before the connection is begun; ``spliced``: the flow may be. ``inside`` another
    network namespace the connection is made there, to its loopback if the address is not one of its own
    (``outward``: wherever the routes of the namespace lead).
    """
    connecting = _socket(address, inside)
    try:
        if inside is not None and not outward:
            address = _in_there(connecting, address)
        if spliced:
            _small_buffers(connecting)
        if before is not None:
            before(connecting.fileno())
        if not _connects_at_once(connecting, tuple(address)):
            async with timeout(CONNECT_TIMEOUT_SECONDS):
                await loop.sock_connect(connecting, tuple(address))
    except BaseException:
        connecting.close()
        raise
    try:
        _, protocol = await loop.create_connection(factory, sock=connecting)
    finally:
        # The transport owns the descriptor from its first moment, and closes it however this ends; a second owner would
        # close a number that may be another connection's by then.
        connecting.detach()
    return protocol


def _connects_at_once(connecting: socket.socket, address: tuple[object, ...]) -> bool:
    """Begin to connect; whether that is done already, as it is within one host: the second call tells. It saves a turn
    of the loop and a watcher, 100 us of CPU. OSError as of ``connect``.
    """
    for _ in range(2):
        error = connecting.connect_ex(address)
        if error in (0, errno.EISCONN):
            return True
        if error not in (errno.EINPROGRESS, errno.EALREADY):
            raise OSError(error, os.strerror(error))
    return False


def _in_there(connecting: socket.socket, address: SocketAddress) -> SocketAddress:
    """The address, if the socket's namespace has it itself; else its loopback address.

    What it does not have belongs to somebody else, to whom the connection would travel. A workload that is known by
    its node's address listens on every address of its namespace, as a rule.
    """
    connecting.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
    try:
        connecting.bind((address.ip, 0))
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        return SocketAddress("::1" if address.family == 6 else "127.0.0.1", address.port)
    return address


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


def descriptor_of(transport: BaseTransport) -> int:
    """The descriptor of a connection, for ``write_now``; -1 if the connection is gone already."""
    handle = transport.get_extra_info("socket")
    return int(handle.fileno()) if handle is not None else -1


def write_now(transport: Transport, descriptor: int, data: memoryview) -> None:
    """Write what the socket takes at once; the transport keeps a copy of the rest and sends it later.

    A transport's own write would keep the buffer until the end of the turn, and it is used for other bytes by then.
    An error aborts the connection at once: the kernel tells it only once, and a read would see the end of a stream.
    """
    written = 0
    if not transport.is_closing() and not transport.get_write_buffer_size():
        try:
            written = os.write(descriptor, data)
        except BlockingIOError:
            pass
        except OSError:
            transport.abort()
            return
    if written < len(data):
        transport.write(bytes(data[written:]))


def reset_on_close(transport: BaseTransport) -> None:
    """From now on closing the socket resets the connection."""
    _linger(transport, _RESET_ON_CLOSE)


def orderly_close(transport: BaseTransport) -> None:
    """From now on closing the socket ends the connection in order, after what waits was sent."""
    _linger(transport, _ORDERLY_CLOSE)


def _linger(transport: BaseTransport, value: Any) -> None:
    handle = transport.get_extra_info("socket")
    if handle is not None:  # a failure says that the socket is gone already: there is nothing to end
        _libc.setsockopt(handle.fileno(), socket.SOL_SOCKET, socket.SO_LINGER, value, _LINGER_BYTES)


def remote_address(transport: BaseTransport) -> SocketAddress | None:
    """The other end, canonical; None if the connection is gone already."""
    return _address(transport.get_extra_info("peername"))


def local_address(transport: BaseTransport) -> SocketAddress | None:
    """This end, canonical; None if the connection is gone already."""
    return _address(transport.get_extra_info("sockname"))


def _address(name: Any) -> SocketAddress | None:
    return SocketAddress(canonical_ip(name[0].partition("%")[0]), name[1]) if name else None
