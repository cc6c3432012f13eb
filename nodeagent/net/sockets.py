"""The one door to sockets: where they are made and what is asked of them. See ``accepting`` and ``dialling`` too.

Every socket towards an application carries SO_LINGER(1, 0) until its orderly end, so that the death of the agent is a
reset to the application and never looks like the end of its stream. An accepted socket inherits it from its listener.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from asyncio import BaseTransport, Transport
from collections.abc import Callable
from typing import Any, Final

from control.wire.address import SocketAddress, canonical_ip
from nodeagent.namespaces.entry import NamespaceError, enter
from nodeagent.namespaces.handle import Namespace

SPLICED_BUFFER: Final = 128 * 1024
_IP_FREEBIND: Final = 15
_IP_BIND_ADDRESS_NO_PORT: Final = 24
_QUIET: Final = struct.Struct("=44xIII")
"""Of ``struct tcp_info`` (linux/tcp.h): tcpi_last_data_sent, tcpi_last_ack_sent, tcpi_last_data_recv."""
_SHORTEST_TRIP: Final = struct.Struct("=148xI")
"""Of ``struct tcp_info``: tcpi_min_rtt, in microseconds; all ones before the first sample."""
_NAME_BYTES: Final = 16
_PACES: Final = b"bbr"
"""What the names of congestion controls begin with that send by a timer instead of by the answers that arrive."""
UNPACED: Final = b"reno"
"""Part of every Linux, and nobody needs a capability to choose it."""
NEAR_MICROSECONDS: Final = 1000
"""A shorter round trip stays within one site."""
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_ORDERLY_CLOSE: Final = struct.pack("ii", 0, 0)


def make(address: SocketAddress, inside: Namespace | None) -> socket.socket:
    """A non-blocking TCP socket that can have the address; OSError, also where the namespace cannot be entered."""
    family = socket.AF_INET6 if address.family == 6 else socket.AF_INET
    return _made(inside, lambda: socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK))


def make_inside(inside: Namespace) -> Callable[[socket.AddressFamily, int], socket.socket]:
    """How another room makes its sockets in the namespace of a workload. OSError where it cannot be entered."""

    def make_there(family: socket.AddressFamily, kind: int) -> socket.socket:
        made = _made(inside, lambda: socket.socket(family, kind))
        freely_bound(made)
        return made

    return make_there


def _made(inside: Namespace | None, make_it: Callable[[], socket.socket]) -> socket.socket:
    if inside is None:
        return make_it()
    try:
        return enter(inside, make_it)
    except NamespaceError as error:
        raise OSError(errno.ENETUNREACH, str(error)) from error


def freely_bound(handle: socket.socket) -> None:
    """It can be bound to an address that its namespace does not have yet: loopback may still be down there."""
    handle.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)


def for_application(handle: socket.socket) -> None:
    """Closing it resets the connection, nothing waits for more to send, and urgent data is read at its place in the
    stream (``marks``); what it accepts inherits all three.
    """
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


def within_node(handle: socket.socket) -> None:
    """What it sends never leaves the node, so there is no path to probe and nothing to pace; what it accepts inherits
    that. Before it is connected or listens.
    """
    with contextlib.suppress(OSError):
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, UNPACED)


def no_early_connections(listener: socket.socket) -> None:
    """On hosts where listen() makes every listener one for TCP Fast Open, the kernel would show connections before the
    client's end is there to say whose they are.
    """
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 0)


def has_address(inside: Namespace | None, ip: str) -> bool:
    """Whether the network namespace has the address itself. OSError if it cannot be entered."""
    with make(SocketAddress(ip, 0), inside) as probe:
        return _binds(probe, ip)


def address_in_there(connecting: socket.socket, address: SocketAddress) -> SocketAddress:
    """The address, if the socket's namespace has it itself; else its loopback address.

    What it does not have belongs to somebody else, to whom the connection would travel. A workload that is known by
    its node's address listens on every address of its namespace, as a rule.
    """
    connecting.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
    if _binds(connecting, address.ip):
        return address
    return SocketAddress("::1" if address.family == 6 else "127.0.0.1", address.port)


def _binds(handle: socket.socket, ip: str) -> bool:
    try:
        handle.bind((ip, 0))
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        return False
    return True


def small_buffers(handle: socket.socket) -> None:
    """Let little wait in the agent's socket of a flow that may be spliced: all of it has to be read before it is."""
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        handle.setsockopt(socket.SOL_SOCKET, option, SPLICED_BUFFER)


def unpaced_at_first(handle: socket.socket) -> None:
    """A tunnel's socket, before it connects or listens: where the host's choice is BBR, have Reno instead.

    BBR is for paths that are long or lose much. It sends 64 KiB at a time, by a timer, and each costs an interrupt;
    once it has begun the kernel goes on so, whatever is chosen later. Hence not at all before the path is known to be
    long (``paced_if_far``). The choice of a route (``congctl``) stands.
    """
    with contextlib.suppress(OSError):
        if _choice(handle).startswith(_PACES):
            handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, UNPACED)


def paced_if_far(transport: BaseTransport) -> bool:
    """On a connected socket of ``unpaced_at_first``: have the host's BBR after all where the path is long; whether
    so.
    """
    handle = transport.get_extra_info("socket")
    try:
        trip = _SHORTEST_TRIP.unpack(handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SHORTEST_TRIP.size))[0]
        if trip < NEAR_MICROSECONDS or _choice(handle) != UNPACED:
            return False
        with socket.socket(handle.family, socket.SOCK_STREAM) as fresh:
            chosen = _choice(fresh)
        if not chosen.startswith(_PACES):
            return False
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, chosen)
    except (AttributeError, OSError):
        return False  # the socket is gone, or the route insists
    return True


def _choice(handle: socket.socket) -> bytes:
    return handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _NAME_BYTES).rstrip(b"\0")


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
    """Write to a transport of the event loop what the socket takes at once; the transport keeps a copy of the rest and
    sends it later.

    Its own write would keep the buffer until the end of the turn, and it is used for other bytes by then. An error
    aborts the connection at once: the kernel tells it only once, and a read would see the end of a stream.
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
