"""Listeners on the worker's ``Poller``: for applications, and for tunnels, whose peers cross the ``Threshold``."""

from __future__ import annotations

import ctypes
import errno
import logging
import socket
import struct
from asyncio import BaseProtocol
from collections.abc import Callable, Sequence
from select import EPOLLIN
from typing import Any, Final, Protocol

from control.wire.address import SocketAddress
from nodeagent.namespaces.handle import Namespace
from nodeagent.namespaces.occupied import occupants, others_listen, told
from nodeagent.net.poller import Poller
from nodeagent.net.sockets import (
    for_application,
    freely_bound,
    make,
    no_early_connections,
    unpaced_at_first,
    within_node,
)
from nodeagent.net.threshold import Arrival, Threshold
from nodeagent.net.transport import SocketTransport

BACKLOG: Final = 4096
ACCEPTED_AT_ONCE: Final = 64
"""Connections that a listener takes before others have their turn."""
ACCEPT_PAUSE_SECONDS: Final = 1.0
"""After the system had no descriptor or memory for a connection."""
_OF_THE_CONNECTION: Final = frozenset({
    errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
})  # fmt: skip
"""What accept() says of one connection, not of the listener: accept(2)."""
_SO_ATTACH_REUSEPORT_CBPF: Final = 51
_SKF_AD_RANDOM: Final = 0xFFFF_F000 + 56

_log = logging.getLogger("nodeagent.net")


class Listener(Protocol):
    """What is listened on."""

    @property
    def sockets(self) -> Sequence[Any]:
        """The listening sockets."""

    def close(self) -> None:
        """Accept no more."""


class ListenError(OSError):
    """A port could not be opened; the message names it and says what to do."""


class ListenerClaim(Protocol):
    """How the kernel is told that a listener is the agent's own (``capture.doors.WorkerSockets``), in one namespace. It
    then gives the listener what arrives at an address, also where that is not what the listener is bound to.
    """

    def mark(self, descriptor: int) -> None:
        """Before it is bound. OSError if the kernel does not take it."""

    def meet(self, at: SocketAddress, descriptor: int) -> None:
        """Once it listens. OSError if the kernel does not take it."""


def listen_for_tunnels(
    poller: Poller,
    threshold: Threshold,
    make_protocol: Callable[[Arrival], BaseProtocol],
    address: SocketAddress,
    inside: Namespace | None = None,
    claim: ListenerClaim | None = None,
) -> TunnelListener:
    """Open a listener for tunnels that this worker shares with its siblings (SO_REUSEPORT). ``::`` is dual stack.

    ``inside`` another network namespace than the agent's own it need not have the address yet: its loopback interface
    may still be down. ``claim``: connections go to it past SO_REUSEPORT groups, and old connections on the port do not
    matter.
    """
    listener = make(address, inside)
    try:
        unpaced_at_first(listener)
        _bind(listener, address, inside, claim)
        listener.listen(BACKLOG)
        no_early_connections(listener)
        if claim is not None:
            claim.meet(address, listener.fileno())
        return TunnelListener(poller, listener, threshold, make_protocol)
    except OSError as error:
        raise _cannot_listen(listener, address, error, inside) from error


def listen_for_apps(
    poller: Poller,
    factory: Callable[[], BaseProtocol],
    address: SocketAddress,
    inside: Namespace | None = None,
    *,
    near: bool = False,
    claim: ListenerClaim | None = None,
) -> AppListener:
    """As ``listen_for_tunnels``, for connections of applications: closing one resets it until its orderly end.
    ``near``: all of them are on this node, and come to this very port.
    """
    listener = make(address, inside)
    try:
        for_application(listener)
        if near:
            within_node(listener)
        elsewhere = _bind(listener, address, inside, claim)
        listener.listen(BACKLOG)
        no_early_connections(listener)
        if claim is not None:
            claim.meet(address, listener.fileno())
        return AppListener(poller, listener, factory, only=address.port if near and elsewhere else 0)
    except OSError as error:
        raise _cannot_listen(listener, address, error, inside) from error


def _bind(
    listener: socket.socket, address: SocketAddress, inside: Namespace | None, claim: ListenerClaim | None
) -> bool:
    """Whether it had to be bound to another port, because old connections have this one."""
    if inside is not None:
        freely_bound(listener)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if listener.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address.ip != "::")
    if claim is not None:
        claim.mark(listener.fileno())
    try:
        listener.bind(tuple(address))
    except OSError as error:
        if claim is None or error.errno != errno.EADDRINUSE:
            raise
        found = occupants(inside, address.port)
        if others_listen(found, address.ip, siblings=True):
            raise
        listener.bind((address.ip, 0))
        _log.warning(
            "port %d is held by %s; the kernel brings connections to %s to port %d instead",
            address.port, told(found), address, listener.getsockname()[1],
        )  # fmt: skip
        return True
    return False


def _cannot_listen(
    listener: socket.socket, address: SocketAddress, error: OSError, inside: Namespace | None
) -> ListenError:
    listener.close()
    what = error.strerror
    if error.errno == errno.EADDRINUSE:
        what = f"the port is held by {told(occupants(inside, address.port))}"
    return ListenError(error.errno or 0, f"cannot listen on {address}: {what}; free the port or configure another")


class Acceptor:
    """Accepts connections, as many at a time as there are and others can wait for."""

    def __init__(self, poller: Poller, listener: socket.socket) -> None:
        self._poller = poller
        self._listener = listener
        self._family = listener.family
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
                accepted, peername = self._take()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OF_THE_CONNECTION:
                    continue
                self._pause(error)
                return
            self._welcome(accepted, peername)

    def _welcome(self, accepted: socket.socket, peername: Any) -> None:
        """Whoever waited is ours to serve, and to close."""
        raise NotImplementedError

    def _take(self) -> tuple[socket.socket, Any]:
        """``accept`` without its questions about what is known."""
        descriptor, peername = self._listener._accept()  # type: ignore[attr-defined]  # what accept() calls
        accepted = socket.socket(self._family, socket.SOCK_STREAM, 0, descriptor)
        accepted.setblocking(False)
        return accepted, peername

    def _pause(self, error: OSError) -> None:
        _log.error(
            "no connection can be accepted for %.0f s: %s; raise the limit of descriptors if it is reached",
            ACCEPT_PAUSE_SECONDS, error,
        )  # fmt: skip
        self._poller.remove(self._descriptor)
        self._poller.loop.call_later(ACCEPT_PAUSE_SECONDS, self._go_on)

    def _go_on(self) -> None:
        if self._descriptor < 0:
            return
        try:
            self._poller.add(self._descriptor, self, EPOLLIN)
        except OSError as error:
            self._pause(error)

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


class AppListener(Acceptor):
    """Of applications: each gets its protocol at once."""

    def __init__(
        self, poller: Poller, listener: socket.socket, factory: Callable[[], BaseProtocol], *, only: int = 0
    ) -> None:
        """``only``: connections to other ports than this, which may reach it by its own, are closed; 0: none are."""
        self._factory = factory
        self._only = only
        super().__init__(poller, listener)

    def _welcome(self, accepted: socket.socket, peername: Any) -> None:
        if self._only and accepted.getsockname()[1] != self._only:
            accepted.close()
            return
        try:
            transport = SocketTransport(self._poller, accepted, self._factory(), peername)
        except BaseException:
            accepted.close()
            raise
        transport.start()


class TunnelListener(Acceptor):
    """Of tunnels."""

    def __init__(
        self, poller: Poller, listener: socket.socket, threshold: Threshold,
        make_protocol: Callable[[Arrival], BaseProtocol],
    ) -> None:  # fmt: skip
        self._threshold = threshold
        self._make_protocol = make_protocol
        super().__init__(poller, listener)

    def _welcome(self, accepted: socket.socket, peername: Any) -> None:
        self._threshold.arrive(accepted, peername, self._make_protocol)


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
