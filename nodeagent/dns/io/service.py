"""All of DNS in one worker: listeners in each network namespace, and captured TCP connections to resolvers."""

from __future__ import annotations

import errno
from asyncio import BaseTransport, DatagramTransport
from collections.abc import Callable
from typing import Final

from control.wire.address import SocketAddress
from nodeagent.dns.io.desk import Asking, DnsContext, MakeSocket, QuestionClaim
from nodeagent.dns.io.tcp import Close, DnsStream, Spawn
from nodeagent.dns.io.udp import DnsListener, bind

SLOTS: Final = 4
"""UDP ports, from the first on (``MESH_DNS_SLOTS``): one for each resolver that a socket may ask."""
LOOPBACK: Final = ("127.0.0.1", "::1")

Find = Callable[[int, SocketAddress, int], Asking | None]
"""(namespace cookie, the asking socket's address, slot) -> the resolver that it meant, and for whom."""


class DnsPortError(OSError):
    """A port could not be opened; the message names it and says what to do."""


class DnsService:
    """One per worker. ``port`` is the first of the SLOTS ports."""

    def __init__(self, desk: DnsContext, port: int, find: Find, spawn: Spawn, close_orderly: Close) -> None:
        self.desk = desk
        self._port = port
        self._find = find
        self._spawn = spawn
        self._close_orderly = close_orderly
        self._open: dict[int, list[DatagramTransport]] = {}

    async def open(self, cookie: int, make: MakeSocket, ipv6: bool, claim: QuestionClaim | None = None) -> None:
        """Listen in a namespace; DnsPortError if a port is taken, and then none of them is open."""
        transports = self._open.setdefault(cookie, [])
        try:
            for ip in LOOPBACK if ipv6 else LOOPBACK[:1]:
                for slot in range(SLOTS):
                    address = SocketAddress(ip, self._port + slot)
                    transports.append(await self._listen(cookie, make, address, slot, claim))
        except OSError:
            self.close(cookie)
            raise

    async def _listen(
        self, cookie: int, make: MakeSocket, address: SocketAddress, slot: int, claim: QuestionClaim | None
    ) -> DatagramTransport:
        def whom(source: SocketAddress) -> Asking | None:
            return self._find(cookie, source, slot)

        try:
            handle = bind(make, address, claim)
        except OSError as error:
            what = error.strerror
            if error.errno == errno.EADDRINUSE:
                what = f"the port is held by {claim.holders(address.port) if claim is not None else 'another program'}"
            raise DnsPortError(
                error.errno or 0, f"cannot listen on {address} (UDP): {what}; free the port, set ports.dns to another,"
                " or set dns: false",
            ) from error  # fmt: skip
        transport, _ = await self.desk.loop.create_datagram_endpoint(
            lambda: DnsListener(self.desk, whom, make), sock=handle
        )
        return transport

    def close(self, cookie: int) -> None:
        """Stop listening in a namespace; questions that are on their way are forgotten."""
        for transport in self._open.pop(cookie, ()):
            transport.close()

    def close_all(self) -> None:
        """Stop listening everywhere."""
        for cookie in list(self._open):
            self.close(cookie)

    def take(self, transport: BaseTransport, asking: Asking, make: MakeSocket) -> None:
        """A captured TCP connection to a resolver is ours from now on."""
        stream = DnsStream(self.desk, asking, make, self._spawn, self._close_orderly)
        transport.set_protocol(stream)
        stream.connection_made(transport)
