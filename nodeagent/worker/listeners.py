"""The listening sockets of a worker in one network namespace, each shared with its siblings (SO_REUSEPORT)."""

from __future__ import annotations

import logging
from asyncio import BaseProtocol
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from control.wire.address import SocketAddress
from nodeagent.capture.doors import WorkerSockets
from nodeagent.dns.io.service import DnsService
from nodeagent.namespaces.handle import Namespace, own
from nodeagent.namespaces.occupied import occupants, told
from nodeagent.net.accepting import Listener, ListenError, listen_for_apps, listen_for_tunnels, spread
from nodeagent.net.poller import Poller
from nodeagent.net.sockets import make_inside
from nodeagent.relay.inbound import Inbound
from nodeagent.relay.outbound import Outbound
from nodeagent.relay.plaintext import Plaintext

HOST_HAS_IPV6: Final = Path("/proc/sys/net/ipv6").exists()

_log = logging.getLogger("nodeagent.worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerPlan:
    """What listens inside every namespace of a workload, and on which ports. A feature that listens there too gets a
    field here and a line in ``WorkerListeners.open_inside``."""

    outbound: Outbound
    outbound_port: int
    inbound: Inbound
    tunnel_port: int
    plaintext: Plaintext
    plaintext_port: int
    dns: DnsService | None
    """None: DNS questions are left alone."""
    sockets: WorkerSockets | None
    """None where nothing is captured, and nothing is guarded."""


class NetnsClaim:
    """A worker's sockets in one namespace (``net.accepting.ListenerClaim``, ``dns.io.desk.QuestionClaim``)."""

    def __init__(self, sockets: WorkerSockets, inside: Namespace | None) -> None:
        self._sockets = sockets
        self._inside = inside
        self._cookie = (inside or own()).cookie
        self.mark = sockets.mark

    def meet(self, at: SocketAddress, descriptor: int) -> None:
        """TCP."""
        self._sockets.meet(self._cookie, at, descriptor)

    def meet_questions(self, at: SocketAddress, descriptor: int) -> None:
        """UDP."""
        self._sockets.meet(self._cookie, at, descriptor, udp=True)

    def holders(self, port: int) -> str:
        """Who has this UDP port."""
        return told(occupants(self._inside, port, udp=True))

    def meet_plaintext(self, family: int, descriptor: int) -> None:
        """See ``WorkerSockets``."""
        self._sockets.meet_plaintext(self._cookie, family, descriptor)


class WorkerListeners:
    """Of one worker in one namespace: the agent's own, or that of a workload."""

    def __init__(self, poller: Poller, sockets: WorkerSockets | None = None) -> None:
        """``sockets``: where the kernel is told of listeners; ``open_inside`` takes those of its ``ListenerPlan``."""
        self._poller = poller
        self._sockets = sockets
        self._servers: list[Listener] = []
        self._workers = 1
        self._tunnels = False
        self._plaintext = False
        self.captures = False
        """Whether captured connections are accepted."""
        self.answers: DnsService | None = None
        """Who answers DNS questions in the namespace of a workload."""
        self._cookie = 0

    def open_captured(self, outbound: Outbound, port: int, inside: Namespace | None = None) -> None:
        """Where captured connections arrive. ListenError, and then none of them is open."""
        self._on_loopback(lambda: outbound.leg(inside), port, inside, near=True)
        self.captures = True

    def claim(self, inside: Namespace | None) -> NetnsClaim | None:
        """For what is opened there by others."""
        return NetnsClaim(self._sockets, inside) if self._sockets is not None else None

    def open_plaintext(self, plaintext: Plaintext, port: int, inside: Namespace | None = None) -> None:
        """Where the kernel brings plaintext of the namespace. OSError."""
        claim = self.claim(inside)
        for server, ip in self._on_loopback(lambda: plaintext.leg(inside), port, inside, near=False):
            for handle in server.sockets:
                if claim is not None:
                    claim.meet_plaintext(6 if ":" in ip else 4, handle.fileno())

    def _on_loopback(
        self, leg: Callable[[], BaseProtocol], port: int, inside: Namespace | None, *, near: bool
    ) -> list[tuple[Listener, str]]:
        opened: list[tuple[Listener, str]] = []
        for ip in ("127.0.0.1", "::1"):
            address = SocketAddress(ip, port)
            try:
                server: Listener = listen_for_apps(
                    self._poller, leg, address, inside, near=near, claim=self.claim(inside)
                )
                opened.append((server, ip))
            except ListenError:
                if address.family == 4 or HOST_HAS_IPV6:
                    for server, _ in opened:
                        server.close()
                    raise
                _log.warning("this host has no IPv6: only IPv4 connections are served on port %d", port)
        for server, _ in opened:
            self._add(server)
        return opened

    def open_tunnels(
        self, inbound: Inbound, addresses: Iterable[str], port: int, inside: Namespace | None = None
    ) -> None:
        """Where other agents connect. ListenError."""
        for ip in addresses:
            address, claim = SocketAddress(ip, port), self.claim(inside)
            self._add(
                listen_for_tunnels(
                    self._poller, inbound.threshold, lambda arrival: inbound.tunnel(inside, arrival), address, inside,
                    claim,
                )
            )  # fmt: skip
        self._tunnels = True

    async def open_inside(self, namespace: Namespace, doors: ListenerPlan) -> str:
        """Whatever is not open yet in the namespace of a workload; what is wrong with it, empty if nothing is.
        ListenError if captured connections cannot be accepted.
        """
        self._sockets = doors.sockets
        if not self.captures:
            self.open_captured(doors.outbound, doors.outbound_port, namespace)
        problems = []
        if not self._plaintext:
            try:
                self.open_plaintext(doors.plaintext, doors.plaintext_port, namespace)
                self._plaintext = True
            except OSError as error:
                problems.append(f"clients outside the mesh are refused: {error}")
        if not self._tunnels:
            everywhere = "::" if HOST_HAS_IPV6 else "0.0.0.0"
            try:
                self.open_tunnels(doors.inbound, (everywhere,), doors.tunnel_port, namespace)
            except ListenError as error:
                problems.append(f"peers that are no nodemesh agents cannot reach it: {error}")
        if doors.dns is not None and self.answers is None:
            try:
                await doors.dns.open(namespace.cookie, make_inside(namespace), HOST_HAS_IPV6, self.claim(namespace))
                self.answers, self._cookie = doors.dns, namespace.cookie
            except OSError as error:
                problems.append(f"names of the mesh are not answered: {error}")
        return "; ".join(problems)

    def spread(self, workers: int) -> None:
        """New connections go to so many of the workers, from now on and for listeners that are opened later."""
        self._workers = workers
        if self._sockets is not None:
            self._sockets.spread(workers)
        for server in self._servers:
            spread(server, workers)

    def close(self) -> None:
        """No further connection is accepted."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        self.captures = self._tunnels = self._plaintext = False
        if self.answers is not None:
            self.answers.close(self._cookie)
            self.answers = None

    def _add(self, server: Listener) -> None:
        self._servers.append(server)
        spread(server, self._workers)
