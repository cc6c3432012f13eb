"""The admin sockets: bound before anything else starts, so that a taken port is one clear line, not half an agent."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Callable, Generator, Sequence

import uvicorn
from starlette.applications import Starlette

from nodeagent.admin.guests import Guests
from nodeagent.limits.excess import Excess
from nodeagent.namespaces.occupied import occupants, others_listen, told

BACKLOG = 1024
KEEP_ALIVE_SECONDS = 5
STOP_SECONDS = 2

LOOPBACK = ("127.0.0.1", "::1")
EVERYWHERE = ("::",)


_log = logging.getLogger("nodeagent.admin")

Mark = Callable[[int], None]


class AdminError(Exception):
    """A port cannot be had; the text names it and the setting."""


def bind(
    hosts: Sequence[str], port: int, option: str, mark: Mark = lambda _: None, *, elsewhere: bool = False
) -> list[socket.socket]:
    """Listening sockets, ``::`` dual stack; AdminError if the port cannot be had. Hosts of a missing family are left
    out. ``mark`` is given each descriptor before it is bound. ``elsewhere``: where old connections have the port, and
    nobody listens there, be bound to another, because the kernel will be told to bring there what arrives.
    """
    sockets: list[socket.socket] = []
    try:
        for host in hosts:
            with contextlib.suppress(_NoSuchFamilyError):
                sockets.append(_bind_one(host, port, option, mark, elsewhere))
        if not sockets and "::" in hosts:
            sockets.append(_bind_one("0.0.0.0", port, option, mark, elsewhere))
    except (AdminError, _NoSuchFamilyError):
        for bound in sockets:
            bound.close()
        raise
    if not sockets:
        raise AdminError(f"{option}: none of {', '.join(hosts)} is an address of this host")
    return sockets


class _NoSuchFamilyError(Exception):
    """The host has no IPv6."""


def _bind_one(host: str, port: int, option: str, mark: Mark, elsewhere: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise _NoSuchFamilyError from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
        mark(listener.fileno())
        _bind(listener, host, port, elsewhere)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise _NoSuchFamilyError from error
        held = f" (held by {told(occupants(None, port))})" if error.errno == errno.EADDRINUSE else ""
        raise AdminError(
            f"port {port} of {host} cannot be used: {error.strerror}{held}; "
            f"another agent or program has it, or choose another with '{option}'"
        ) from error
    return listener


def _bind(listener: socket.socket, host: str, port: int, elsewhere: bool) -> None:
    try:
        listener.bind((host, port))
    except OSError as error:
        if not elsewhere or error.errno != errno.EADDRINUSE:
            raise
        found = occupants(None, port)
        if others_listen(found, host, siblings=False):
            raise
        listener.bind((host, 0))
        _log.warning(
            "port %d is held by %s; the kernel brings connections to %s to port %d instead",
            port, told(found), host, listener.getsockname()[1],
        )  # fmt: skip


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: the agent has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class AdminServer:
    """Applications on sockets that are bound already."""

    def __init__(self, excess: Excess | None = None) -> None:
        self.excess = excess or Excess()
        self._parts: list[tuple[_Server, list[socket.socket]]] = []

    def add(self, app: Starlette, sockets: list[socket.socket]) -> None:
        """Serve the application there, once ``run``."""
        guests = Guests(str(sockets[0].getsockname()[1]), self.excess)
        config = uvicorn.Config(
            app,
            http=guests.protocol,  # type: ignore[arg-type]  # called, as a class would be
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        self._parts.append((_Server(config), sockets))

    async def run(self) -> None:
        """Until ``stop``."""
        async with asyncio.TaskGroup() as group:
            for server, sockets in self._parts:
                group.create_task(server.serve(sockets=sockets), name="admin")

    def stop(self) -> None:
        """Let ``run`` end."""
        for server, _ in self._parts:
            server.should_exit = True

    def close(self) -> None:
        """Close the sockets of a server that never ran."""
        for _, sockets in self._parts:
            for bound in sockets:
                bound.close()
