"""The listening sockets of a worker, each shared with its siblings (SO_REUSEPORT)."""

from __future__ import annotations

import logging
from asyncio import AbstractEventLoop
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from control.wire.address import SocketAddress
from nodeagent.relay.io.inbound import Inbound
from nodeagent.relay.io.outbound import Outbound
from nodeagent.relay.io.poller import Poller
from nodeagent.relay.io.sockets import Listener, ListenError, listen, listen_for_apps, spread

HOST_HAS_IPV6: Final = Path("/proc/sys/net/ipv6").exists()

_log = logging.getLogger("nodeagent.worker")


class Listeners:
    """Of one worker."""

    def __init__(self, loop: AbstractEventLoop, poller: Poller) -> None:
        self._loop = loop
        self._poller = poller
        self._servers: list[Listener] = []
        self._workers = 1

    async def open_captured(self, outbound: Outbound, port: int) -> None:
        """Where captured connections arrive. ListenError."""
        for ip in ("127.0.0.1", "::1"):
            address = SocketAddress(ip, port)
            try:
                self._add(listen_for_apps(self._poller, outbound.leg, address))
            except ListenError:
                if address.family == 4 or HOST_HAS_IPV6:
                    raise
                _log.warning("this host has no IPv6: only IPv4 connections are captured")

    async def open_tunnels(self, inbound: Inbound, addresses: Iterable[str], port: int) -> None:
        """Where other agents connect. ListenError."""
        for ip in addresses:
            self._add(await listen(self._loop, inbound.tunnel, SocketAddress(ip, port)))

    def spread(self, workers: int) -> None:
        """New connections go to so many of the workers, from now on and for listeners that are opened later."""
        self._workers = workers
        for server in self._servers:
            spread(server, workers)

    def close(self) -> None:
        """No further connection is accepted."""
        for server in self._servers:
            server.close()

    def _add(self, server: Listener) -> None:
        self._servers.append(server)
        spread(server, self._workers)
