"""DNS over TCP: a captured connection to port 53. Names of the mesh are answered here, all else goes over one
connection to the resolver that was meant, in whole messages, so that both kinds of answers can be mixed.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from asyncio import Protocol, TimerHandle, Transport, timeout
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, cast

from nodeagent.dns.decide import Answer, Discard
from nodeagent.dns.io.desk import QUERY_SECONDS, Asking, DnsContext, MakeSocket, open_socket
from nodeagent.dns.messages import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, BaseTransport, Future

TCP: Final = "tcp"
IDLE_SECONDS: Final = 120.0
"""After so long without a byte either way the connection is closed (RFC 7766 leaves the time to the server)."""
MAX_WAITING: Final = 64 * 1024 + 2
"""Octets that wait for the resolver's connection to be made: at least one message of the largest size."""
LENGTH_BYTES: Final = 2
_log = logging.getLogger("nodeagent.dns")

Spawn = Callable[[Coroutine[Any, Any, None], str], None]
Close = Callable[["BaseTransport"], None]


class Framer:
    """Whole messages from a stream; what is left over is at most one message."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are complete now."""
        buffer = self._rest + data
        found, at = [], 0
        while len(buffer) - at >= LENGTH_BYTES:
            end = at + LENGTH_BYTES + int.from_bytes(buffer[at : at + LENGTH_BYTES], "big")
            if len(buffer) < end:
                break
            found.append(buffer[at + LENGTH_BYTES : end])
            at = end
        self._rest = buffer[at:]
        return found


def framed(message: bytes) -> bytes:
    """A message with its length before it."""
    return len(message).to_bytes(LENGTH_BYTES, "big") + message


async def _connect(loop: AbstractEventLoop, handle: socket.socket, address: tuple[Any, ...]) -> None:
    """As ``sock_connect``, of which uvloop's loses the scope of a link-local address. OSError."""
    number = handle.connect_ex(address)
    if number == errno.EINPROGRESS:
        writable = loop.create_future()
        loop.add_writer(handle.fileno(), _settle, writable)
        try:
            await writable
        finally:
            loop.remove_writer(handle.fileno())
        number = handle.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        raise OSError(number, os.strerror(number))


def _settle(waiting: Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


class _Upstream(Protocol):
    """The connection to the resolver: its answers go to the client in whole messages."""

    def __init__(self, stream: DnsStream) -> None:
        self._stream = stream
        self._framer = Framer()

    def connection_made(self, transport: BaseTransport) -> None:
        cast(Transport, transport).set_write_buffer_limits(high=MAX_WAITING)

    def data_received(self, data: bytes) -> None:
        for message in self._framer.feed(data):
            self._stream.answered(message)

    def eof_received(self) -> bool:
        self._stream.finish()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._stream.finish()

    def pause_writing(self) -> None:
        self._stream.pause_reading()

    def resume_writing(self) -> None:
        self._stream.resume_reading()


class DnsStream(Protocol):
    """The client's connection. ``close_orderly`` makes its close an end, where the listener would make it a reset."""

    def __init__(self, desk: DnsContext, asking: Asking, make: MakeSocket, spawn: Spawn, close_orderly: Close) -> None:
        self._desk = desk
        self._resolver = asking.resolver
        self._address = asking.address
        self._cgroup_id = asking.cgroup_id
        self._make = make
        self._spawn = spawn
        self._close_orderly = close_orderly
        self._framer = Framer()
        self._client: Transport | None = None
        self._upstream: Transport | None = None
        self._connecting = False
        self._waiting = bytearray()
        self._ended = False
        self._idle: TimerHandle | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        """Accepted."""
        self._client = cast(Transport, transport)
        self._client.set_write_buffer_limits(high=2 * MAX_MESSAGE_BYTES)
        self._enter()
        self._rest()

    def _enter(self) -> None:
        """Where the workload has its share of connections its oldest one ends."""
        streams, excess = self._desk.streams, self._desk.excess
        workload = self._desk.workload_of(self._cgroup_id)
        oldest = streams.gives_way(workload)
        if oldest is not None:
            whose = workload if streams.used_up(workload) else streams.heaviest
            excess.refused("dns_connections_per_workload", whose)
            self._desk.count(TCP, "overloaded")
            oldest.give_way()
        streams.enter(self, workload)

    def give_way(self) -> None:
        """Another's turn has come."""
        self.finish()

    def data_received(self, data: bytes) -> None:
        """Questions."""
        self._rest()
        try:
            for message in self._framer.feed(data):
                self._take(message)
        except Exception:  # a defect: this connection ends, others go on
            _log.exception("defect while answering a DNS question")
            self.finish()

    def eof_received(self) -> bool:
        """No further question; what was asked is answered still."""
        self._ended = True
        if self._upstream is not None:
            self._upstream.write_eof()
        elif not self._connecting:
            self.finish()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._client = None
        self.finish()

    def pause_writing(self) -> None:
        """The client does not read: neither do we."""
        if self._upstream is not None and not self._upstream.is_closing():
            self._upstream.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        if self._upstream is not None and not self._upstream.is_closing():
            self._upstream.resume_reading()

    def pause_reading(self) -> None:
        """The resolver does not read: the client has to wait."""
        if self._client is not None and self._client.is_reading():
            self._client.pause_reading()

    def resume_reading(self) -> None:
        """The resolver reads again."""
        if self._client is not None and not self._client.is_closing() and not self._client.is_reading():
            self._client.resume_reading()

    def answered(self, message: bytes) -> None:
        """The resolver answered."""
        self._rest()
        self._desk.count(TCP, "forwarded")
        if self._client is not None:
            self._client.write(framed(message))

    def finish(self) -> None:
        """Close both connections; what was written is sent still."""
        self._desk.streams.leave(self)
        if self._idle is not None:
            self._idle.cancel()
        if self._upstream is not None:
            self._upstream.close()
        if self._client is not None and not self._client.is_closing():
            self._close_orderly(self._client)
            self._client.close()

    def _take(self, message: bytes) -> None:
        verdict = self._desk.decide(message, TCP, self._cgroup_id)
        if isinstance(verdict, Answer):
            self._desk.count(TCP, verdict.outcome)
            if self._client is not None:
                self._client.write(framed(verdict.message))
        elif isinstance(verdict, Discard):
            self._desk.count(TCP, "discarded")
            self.finish()
        elif self._upstream is not None:
            self._upstream.write(framed(message))
        else:
            self._waiting += framed(message)
            if len(self._waiting) > MAX_WAITING:
                self.pause_reading()
            if not self._connecting:
                self._connecting = True
                self._spawn(self._connect(), f"resolver {self._resolver}")

    async def _connect(self) -> None:
        handle = open_socket(self._make, self._resolver, socket.SOCK_STREAM)
        try:
            async with timeout(QUERY_SECONDS):
                await _connect(self._desk.loop, handle, self._address)
                transport, _ = await self._desk.loop.create_connection(lambda: _Upstream(self), sock=handle)
        except OSError as error:  # a TimeoutError is one
            handle.close()
            _log.debug("resolver %s: %s", self._resolver, error)
            self._desk.count(TCP, "unreachable")
            self.finish()
            return
        finally:
            self._connecting = False
        self._joined(transport)

    def _joined(self, transport: Transport) -> None:
        self._upstream = transport
        if self._client is None or self._client.is_closing():
            transport.close()
            return
        transport.write(bytes(self._waiting))
        self._waiting.clear()
        if self._ended:
            transport.write_eof()
        self.resume_reading()

    def _rest(self) -> None:
        """Something came: begin to count anew."""
        if self._idle is not None:
            self._idle.cancel()
        self._idle = self._desk.loop.call_later(IDLE_SECONDS, self.finish)
