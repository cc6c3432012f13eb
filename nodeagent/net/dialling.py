"""Connections that the agent opens: tunnels on the event loop, applications on the worker's ``Poller``."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from asyncio import AbstractEventLoop, BaseProtocol
from collections.abc import Callable
from select import EPOLLOUT
from typing import Final, TypeVar

from control.wire.address import SocketAddress
from nodeagent.namespaces.handle import Namespace
from nodeagent.net.poller import Poller
from nodeagent.net.sockets import (
    address_in_there,
    for_application,
    make,
    small_buffers,
    unpaced_at_first,
    within_node,
)
from nodeagent.net.transport import SocketTransport
from nodeagent.reasons import Reason

OUTWARD_SECONDS: Final = 10.0
"""For connections to hosts outside the mesh, where nobody says otherwise."""

P = TypeVar("P", bound=BaseProtocol)


async def dial(loop: AbstractEventLoop, factory: Callable[[], P], address: SocketAddress, seconds: float) -> P:
    """Connect a tunnel within so many seconds; OSError or TimeoutError where that fails (see ``connect_reason``)."""
    connecting = make(address, None)
    try:
        unpaced_at_first(connecting)
        async with asyncio.timeout(seconds):
            await loop.sock_connect(connecting, tuple(address))
    except BaseException:
        connecting.close()
        raise
    return await _handed_over(loop, factory, connecting)


async def _handed_over(loop: AbstractEventLoop, factory: Callable[[], P], connected: socket.socket) -> P:
    """The loop owns the descriptor from now on, and closes it, also where this fails."""
    try:
        transport, protocol = await loop.create_connection(factory, sock=connected)
    except BaseException:
        connected.detach()
        raise
    if transport.is_closing():  # by the protocol, before the loop knew whose descriptor it is
        connected.detach()
    return protocol


async def dial_app(
    poller: Poller,
    factory: Callable[[], P],
    address: SocketAddress,
    before: Callable[[int], None] | None = None,
    *,
    spliced: bool = False,
    inside: Namespace | None = None,
    outward: float | None = None,
    waits: Callable[[Callable[[], None]], None] | None = None,
) -> P:
    """Connect to an application, as ``dial``. On this host that is done before it waits for anything (see
    ``Tasks.start``), unless the server's accept queue is full. Within the node the kernel alone gives up
    (tcp_syn_retries). If it has to wait ``waits`` is given a call that ends the dial with ConnectionAbortedError.

    ``before`` is told the descriptor before the connection is begun; ``spliced``: the flow may be. ``inside`` another
    network namespace the connection is made there, to its loopback if the address is not one of its own
    (``outward``: wherever the routes of the namespace lead, within so many seconds).
    """
    connecting = make(address, inside)
    try:
        for_application(connecting)
        if not outward:
            within_node(connecting)
        if inside is not None and not outward:
            address = address_in_there(connecting, address)
        if spliced:
            small_buffers(connecting)
        if before is not None:
            before(connecting.fileno())
        if not _connects(connecting, address):
            await _connected(poller, connecting, address, outward, waits)
        protocol = factory()
    except BaseException:
        connecting.close()
        raise
    SocketTransport(poller, connecting, protocol).start()
    return protocol


def _connects(connecting: socket.socket, address: SocketAddress) -> bool:
    """Begin to connect, or go on; whether it is done. OSError as of ``connect``.

    Within one host the handshake is over when ``connect`` returns: the second call says so.
    """
    for _ in range(2):
        number = connecting.connect_ex(tuple(address))
        if number in (0, errno.EISCONN):
            return True
        if number == errno.EALREADY:
            return False
        if number != errno.EINPROGRESS:
            raise OSError(number, os.strerror(number))
    return False


async def _connected(
    poller: Poller,
    connecting: socket.socket,
    address: SocketAddress,
    seconds: float | None,
    waits: Callable[[Callable[[], None]], None] | None,
) -> None:
    await asyncio.sleep(0)  # what follows needs a task: see Tasks.start
    waiting = _Connecting(poller, connecting.fileno())
    if waits is not None:
        waits(waiting.give_up)
    try:
        async with asyncio.timeout(seconds):
            while not _connects(connecting, address):
                await waiting.news()
    finally:
        poller.remove(connecting.fileno())


class _Connecting:
    """A connection that is being made."""

    def __init__(self, poller: Poller, descriptor: int) -> None:
        self._told = asyncio.Event()
        self._given_up = False
        poller.add(descriptor, self, EPOLLOUT)

    async def news(self) -> None:
        """Until the kernel has some."""
        await self._told.wait()
        if self._given_up:
            raise ConnectionAbortedError(errno.ECONNABORTED, "nobody waits for it any more")
        self._told.clear()

    def give_up(self) -> None:
        """Nobody waits for it."""
        self._given_up = True
        self._told.set()

    def ready(self, _events: int) -> None:
        """There are."""
        self._told.set()

    def abort(self) -> None:
        """The dial ends by its time."""

    def bury(self) -> None:
        """Never doomed."""


def local_reason(error: BaseException) -> Reason:
    """As ``connect_reason``, within this node: silence there is a full accept queue."""
    reason = connect_reason(error)
    return Reason.SERVER_BUSY if reason is Reason.CONNECT_TIMEOUT else reason


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
