"""The listening sockets of a worker, each shared with its siblings (SO_REUSEPORT)."""

from __future__ import annotations

import logging
from asyncio import AbstractEventLoop, BaseProtocol, Server
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from control.wire.address import SocketAddress
from nodeagent.capture.inbound import SteerTable
from nodeagent.namespaces.handle import own
from nodeagent.relay.io.inbound import Inbound
from nodeagent.relay.io.outbound import Outbound
from nodeagent.relay.io.plaintext import Plaintext
from nodeagent.relay.io.sockets import ListenError, listen, spread

HOST_HAS_IPV6: Final = Path("/proc/sys/net/ipv6").exists()

_log = logging.getLogger("nodeagent.worker")


class Listeners:
    """Of one worker."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._servers: list[Server] = []
        self._workers = 1

    async def open_captured(self, outbound: Outbound, port: int) -> None:
        """Where captured connections arrive. ListenError."""
        await self._on_loopback(outbound.leg, port)

    async def open_plaintext(self, plaintext: Plaintext, port: int, steers: SteerTable) -> None:
        """Where the kernel brings plaintext of this process's network namespace. ListenError, BpfError."""
        cookie = own().cookie
        for server, ip in await self._on_loopback(plaintext.leg, port):
            for handle in server.sockets:
                steers.add(cookie, handle.fileno(), v6=":" in ip)

    async def _on_loopback(self, leg: Callable[[], BaseProtocol], port: int) -> list[tuple[Server, str]]:
        opened = []
        for ip in ("127.0.0.1", "::1"):
            address = SocketAddress(ip, port)
            try:
                opened.append((await listen(self._loop, leg, address, reset_on_close=True), ip))
            except ListenError:
                if address.family == 4 or HOST_HAS_IPV6:
                    raise
                _log.warning("this host has no IPv6: only IPv4 connections are served on port %d", port)
        for server, _ in opened:
            self._add(server)
        return opened

    async def open_tunnels(self, inbound: Inbound, addresses: Iterable[str], port: int) -> None:
        """Where other agents connect. ListenError."""
        for ip in addresses:
            self._add(await listen(self._loop, inbound.tunnel, SocketAddress(ip, port), reset_on_close=False))

    def spread(self, workers: int) -> None:
        """New connections go to so many of the workers, from now on and for listeners that are opened later."""
        self._workers = workers
        for server in self._servers:
            spread(server, workers)

    def close(self) -> None:
        """No further connection is accepted."""
        for server in self._servers:
            server.close()

    def _add(self, server: Server) -> None:
        self._servers.append(server)
        spread(server, self._workers)
