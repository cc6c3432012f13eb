"""DNS over UDP: the agent's ports on loopback, and one socket for each question that goes on to a resolver.

A socket of its own for each question (its source port is random, it hears from its resolver only) is what keeps a
forged answer as hard to place as it was without the agent.
"""

from __future__ import annotations

import logging
import socket
from asyncio import DatagramProtocol, DatagramTransport, TimerHandle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from control.wire.address import SocketAddress
from nodeagent.dns.decide import Answer, Discard
from nodeagent.dns.io.desk import QUERY_SECONDS, Asking, DnsContext, MakeSocket, QuestionClaim, open_socket
from nodeagent.dns.messages import HEADER_BYTES, MAX_MESSAGE_BYTES, failure, identifier

if TYPE_CHECKING:
    from asyncio import BaseTransport

UDP: Final = "udp"
RECEIVE_BUFFER: Final = 1024 * 1024
"""Octets of questions that wait in a listener's socket; the kernel drops what comes beyond."""
_log = logging.getLogger("nodeagent.dns")

Whom = Callable[[SocketAddress], Asking | None]
"""The source of a question -> the resolver that it meant, and for whom; None if the kernel did not send it here."""


class DnsListener(DatagramProtocol):
    """One UDP port of the agent in one network namespace."""

    def __init__(self, desk: DnsContext, whom: Whom, make: MakeSocket) -> None:
        self._desk = desk
        self._whom = whom
        self._make = make
        self._transport: DatagramTransport | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        """Listening."""
        self._transport = cast(DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """A question."""
        try:
            self._take(data, addr)
        except Exception:  # a defect: this question gets no answer, others do
            _log.exception("defect while answering a DNS question")
            self._desk.count(UDP, "defect")

    def error_received(self, exc: Exception) -> None:
        """Who asked has closed its socket meanwhile."""

    def _take(self, data: bytes, addr: tuple[Any, ...]) -> None:
        asking = self._whom(SocketAddress(addr[0], addr[1]))
        if asking is None:
            self._desk.count(UDP, "not-captured")
            return
        verdict = self._desk.decide(data, UDP, asking.cgroup_id)
        if isinstance(verdict, Answer):
            self._desk.count(UDP, verdict.outcome)
            self.reply(verdict.message, addr)
        elif isinstance(verdict, Discard):
            self._desk.count(UDP, "discarded")
        else:
            self._forward(data, addr, asking)

    def _forward(self, data: bytes, addr: tuple[Any, ...], asking: Asking) -> None:
        desk = self._desk
        workload = desk.workload_of(asking.cgroup_id)
        if desk.pending.used_up(workload):
            desk.excess.refused("dns_questions_per_workload", workload)
            desk.count(UDP, "overloaded")
            self.reply(failure(data), addr)
            return
        oldest = desk.pending.gives_way(workload)
        if oldest is not None:
            desk.excess.refused("dns_questions_per_workload", desk.pending.heaviest)
            oldest.give_way()
        _UpstreamQuery(desk, self, data, addr, asking).start(self._make, workload)

    def reply(self, message: bytes, addr: tuple[Any, ...]) -> None:
        """Send to who asked."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(message, addr)


class _UpstreamQuery:
    """One question on its way to a resolver and back."""

    __slots__ = ("_addr", "_asking", "_desk", "_handle", "_listener", "_query", "_timer")

    def __init__(
        self, desk: DnsContext, listener: DnsListener, query: bytes, addr: tuple[Any, ...], asking: Asking
    ) -> None:
        self._desk = desk
        self._listener = listener
        self._query = query
        self._addr = addr
        self._asking = asking
        self._handle: socket.socket | None = None
        self._timer: TimerHandle | None = None

    def start(self, make: MakeSocket, workload: str) -> None:
        """Ask; what cannot be sent is answered at once, as the network would have."""
        try:
            handle = self._handle = open_socket(make, self._asking.resolver, socket.SOCK_DGRAM)
            handle.connect(self._asking.address)
            handle.send(self._query)
        except OSError as error:
            _log.debug("resolver %s: %s", self._asking.resolver, error)
            self._fail("unreachable")
            return
        self._desk.pending.enter(self, workload)
        self._desk.loop.add_reader(handle.fileno(), self._readable)
        self._timer = self._desk.loop.call_later(QUERY_SECONDS, self._end, "timeout")

    def _readable(self) -> None:
        assert self._handle is not None
        try:
            answer = self._handle.recv(MAX_MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:  # the resolver's port is closed
            self._fail("unreachable")
            return
        if len(answer) < HEADER_BYTES or identifier(answer) != identifier(self._query):
            return  # not the answer to this question
        self._listener.reply(answer, self._addr)
        self._end("forwarded")

    def give_way(self) -> None:
        """Another's turn has come."""
        self._fail("overloaded")

    def _fail(self, outcome: str) -> None:
        self._listener.reply(failure(self._query), self._addr)
        self._end(outcome)

    def _end(self, outcome: str) -> None:
        self._desk.count(UDP, outcome)
        if self._timer is not None:
            self._timer.cancel()
            self._desk.pending.leave(self)
            if self._handle is not None:
                self._desk.loop.remove_reader(self._handle.fileno())
        if self._handle is not None:
            self._handle.close()


def bind(make: MakeSocket, address: SocketAddress, claim: QuestionClaim | None = None) -> socket.socket:
    """A UDP socket that this worker shares with its siblings (SO_REUSEPORT). OSError if the port is taken."""
    handle = open_socket(make, address, socket.SOCK_DGRAM)
    try:
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        if claim is not None:
            claim.mark(handle.fileno())
        handle.bind(tuple(address))
        if claim is not None:
            claim.meet_questions(address, handle.fileno())
    except OSError:
        handle.close()
        raise
    return handle
