"""One end of a tunnel: a socket, TLS on it, and a Http2Connection on that. What both roles share.

Output is written once per turn of the loop: whatever all streams have to say goes out as one TLS write. While the
socket is full nothing is encrypted; the connection is told (``congested``) and stops the sources.
"""

from __future__ import annotations

import logging
from asyncio import AbstractEventLoop, BufferedProtocol, Transport
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, cast

from control.wire.address import SocketAddress
from nodeagent.http2.connection import Http2Connection
from nodeagent.http2.errors import ErrorCode, PeerError
from nodeagent.http2.hpack.field import Field
from nodeagent.http2.stream import Stream
from nodeagent.http2.table import Role
from nodeagent.http2.windows import WindowBudget
from nodeagent.identity.openssl import TlsClosedError, TlsError
from nodeagent.identity.spiffe import PeerCertificateError, PeerIdentity
from nodeagent.identity.tlsctx import authenticate
from nodeagent.limits.records import SOURCE
from nodeagent.net.sockets import descriptor_of, local_address, paced_if_far, remote_address, write_now
from nodeagent.reasons import Reason
from nodeagent.tunnel.tls import TlsBuffers, TlsSession

if TYPE_CHECKING:
    from asyncio import BaseTransport
    from collections.abc import Callable

HANDSHAKE_SECONDS: Final = 10.0
PING_AFTER_SECONDS: Final = 10.0
PING_TIMEOUT_SECONDS: Final = 20.0
IDLE_SECONDS: Final = 300.0
"""A tunnel without streams is closed after this long."""
READ_BYTES: Final = 256 * 1024
WRITE_HIGH_WATER: Final = 256 * 1024
FAREWELL_SECONDS: Final = 5.0
"""For a peer to take what was written before the tunnel ended; then it is dropped."""

_log = logging.getLogger("nodeagent.tunnel")


class ReadBuffers:
    """Where all connections of a worker read: what is in them is taken before the next read, by whichever."""

    __slots__ = ("application", "ciphertext", "tls")

    def __init__(self) -> None:
        self.application = memoryview(bytearray(READ_BYTES))
        self.ciphertext = memoryview(bytearray(READ_BYTES))
        self.tls = TlsBuffers()


class TunnelEnd(BufferedProtocol):
    """A tunnel; subclasses say who is expected and what to do with streams."""

    def __init__(
        self, loop: AbstractEventLoop, role: Role, trust_domain: str, budget: WindowBudget, buffers: ReadBuffers
    ) -> None:
        self.loop = loop
        self.buffers = buffers
        self.trust_domain = trust_domain
        self.tls: TlsSession | None = None
        self.transport: Transport | None = None
        self.peer: PeerIdentity | None = None
        self.remote: SocketAddress | None = None
        self.local: SocketAddress | None = None
        self.failure: tuple[Reason, str] | None = None
        self.when_gone: Callable[[TunnelEnd], None] | None = None
        """Called when the socket is closed, and so has taken every byte that was written."""
        self.settled_once = False
        self.closed = False
        self._began = self._heard = self._idle_since = loop.time()
        self._pings = 0
        self._pinged = 0.0
        self._paused = False
        self._flush_asked = False
        self._descriptor = -1
        self.connection = Http2Connection(role, self, budget)  # last: it has something to say at once

    # --- for subclasses ---

    def make_tls(self) -> TlsSession:
        """The TLS session for this socket. TlsError or NoIdentityError end the tunnel."""
        raise NotImplementedError

    def before_authentication(self) -> None:
        """The handshake is done; ``trust_domain`` must be set when this returns."""

    def authenticated(self) -> None:
        """``peer`` is set."""

    def abused(self) -> None:
        """The peer asked for more than a bound allows; the tunnel ends."""

    def lost(self) -> None:
        """The tunnel is gone; ``failure`` says why. The streams were told."""

    # --- the socket ---

    def connection_made(self, transport: BaseTransport) -> None:
        """Begin the handshake."""
        self.transport = cast(Transport, transport)
        self.transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        self._descriptor = descriptor_of(transport)
        self.remote, self.local = remote_address(transport), local_address(transport)
        if self.closed:  # while the dial was being answered
            self.transport.abort()
            return
        try:
            self.tls = self.make_tls()
            self.tls.handshake()
        except Exception as error:  # whatever it is, this tunnel is over and no other is concerned
            self.fail(Reason.NO_IDENTITY, str(error))
            return
        self.tls.give_output(self._write)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to put ciphertext: one place for all tunnels, since it is taken before the next is read."""
        return self.buffers.ciphertext

    def buffer_updated(self, nbytes: int) -> None:
        """Ciphertext arrived."""
        self._heard = self.loop.time()
        self._read(nbytes)
        if self.connection.held and self.transport is not None and not self.closed:
            self.transport.pause_reading()
            self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Others have had their turn since the peer opened many streams at once: take the next of them."""
        self._read(0)
        if self.closed or self.transport is None:
            return
        if self.connection.held:
            self.loop.call_soon(self._go_on)
        else:
            self.transport.resume_reading()

    def _read(self, nbytes: int) -> None:
        """Take so much ciphertext; 0: what was kept back. What is wrong with it ends this tunnel and no other."""
        tls, connection = self.tls, self.connection
        if tls is None or self.closed:
            return
        try:
            if not nbytes:
                connection.go_on()
                return
            tls.feed(self.buffers.ciphertext[:nbytes])
            if self.peer is None:
                self._go_on_with_handshake(tls)
            for piece in tls.pieces():
                if not self._over():
                    connection.receive(piece)
        except PeerError as error:
            self._end_with_goaway(error)
        except TlsClosedError as error:
            self.fail(self._lost_reason(), str(error))
        except TlsError as error:
            self._tls_failed(error)
        except PeerCertificateError as error:
            self.fail(Reason.IDENTITY_MISMATCH, str(error))
        except Exception as error:  # a defect must not take the worker's other tunnels along
            _log.exception("defect while reading a tunnel from %s", self.remote, extra={SOURCE: self.remote})
            self.fail(Reason.INTERNAL_ERROR, repr(error))

    def _over(self) -> bool:
        return self.closed

    def _go_on_with_handshake(self, tls: TlsSession) -> None:
        tls.give_output(self._write)
        if tls.established:
            self.before_authentication()
            self.peer = authenticate(tls.object, datetime.now(UTC), self.trust_domain)
            self._idle_since = self._heard
            if self.transport is not None:
                paced_if_far(self.transport)
            self.authenticated()
            self.output_ready()

    def _tls_failed(self, error: TlsError) -> None:
        if self.tls is not None:
            self.tls.give_output(self._write)  # the alert
        self.fail(self._lost_reason(), str(error))

    def _lost_reason(self) -> Reason:
        # a TLS 1.3 server looks at our certificate after we are done: its refusal arrives instead of its first frame
        return Reason.TUNNEL_LOST if self.settled_once else Reason.TLS_FAILURE

    def _end_with_goaway(self, error: PeerError) -> None:
        if error.code is ErrorCode.ENHANCE_YOUR_CALM:
            self.abused()
        self.connection.go_away(ErrorCode(error.code), str(error))
        self.flush()
        self.fail(Reason.PROTOCOL_ERROR, str(error))

    def eof_received(self) -> bool:
        """The peer closed without close_notify: what was not ended in the streams was cut."""
        self.fail(self._lost_reason(), "the peer closed the connection")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self.fail(self._lost_reason(), str(exc) if exc else "the connection was closed")
        self.transport = None
        if self.when_gone is not None:
            self.when_gone(self)

    def pause_writing(self) -> None:
        """The socket is full."""
        self._paused = True
        self.connection.congested(True)

    def resume_writing(self) -> None:
        """The socket has room again."""
        self._paused = False
        self.connection.congested(False)
        self.output_ready()
        self.close_if_unused()

    def fail(self, reason: Reason, detail: str) -> None:
        """End the tunnel now; every stream is reset. The first reason stays."""
        if self.closed:
            return
        self.closed = True
        if self.failure is None:
            self.failure = (reason, detail)
        self.connection.abandon(ErrorCode.CONNECT_ERROR)
        if self.transport is not None:
            self.transport.close()
            if self.transport.get_write_buffer_size():
                self.loop.call_later(FAREWELL_SECONDS, self.transport.abort)
        self.lost()

    # --- output ---

    def output_ready(self) -> None:
        """Write at the end of this turn of the loop."""
        if not self._flush_asked:
            self._flush_asked = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what there is; nothing while the socket is full."""
        self._flush_asked = False
        if self._paused or self.closed or self.peer is None or self.tls is None or self.transport is None:
            return
        parts = self.connection.take_parts()
        if not parts:
            return
        try:
            self.tls.send(parts, self._write)
        except (TlsError, TlsClosedError) as error:
            self.fail(Reason.TUNNEL_LOST, str(error))

    def _write(self, ciphertext: memoryview) -> None:
        if self.transport is not None:
            write_now(self.transport, self._descriptor, ciphertext)

    # --- the connection's news ---

    def settled(self) -> None:
        """The peer speaks HTTP/2 and accepted our certificate."""
        self.settled_once = True

    def ping(self) -> int:
        """Ask the peer for a sign of life; how many of its answers are due now."""
        self._pings += 1
        self._pinged = self._pinged or self.loop.time()
        self.connection.ping()
        return self._pings

    def pong(self) -> None:
        """The peer lives."""
        self._pings -= 1
        self._pinged = self._heard if self._pings else 0.0

    def draining(self, code: int, text: str) -> None:
        """The peer takes no more streams."""
        if code != ErrorCode.NO_ERROR:
            what = "tunnel %s: the peer goes away with code %d %r"
            _log.warning(what, self.remote, code, text[:200], extra={SOURCE: self.remote})
        self.close_if_unused()

    def request_refused(self, why: str) -> None:
        """Server: a request was refused before it became a stream."""
        _log.warning("tunnel %s: a request was refused: %s", self.remote, why)

    def stream_opened(self, stream: Stream, fields: list[Field], *, ended: bool) -> None:
        """Server: a request; a client gets none."""
        raise NotImplementedError

    def stream_closed(self, stream: Stream) -> None:
        """A stream is over."""
        if not self.connection.streams:
            self._idle_since = self.loop.time()
            if self.tls is not None:
                self.tls.shrink()
            self.close_if_unused()

    # --- time and the end ---

    def drain(self) -> None:
        """Take no more streams; close when the last one is over."""
        if self.peer is None:
            return
        self.connection.table.draining = True
        self.connection.go_away()
        self.close_if_unused()

    def close_if_unused(self) -> None:
        """Close a tunnel that drains and carries nothing."""
        gone = self.connection.leaving
        if gone and not self.connection.streams and not self.closed:
            self.loop.call_soon(self._close_unused)

    def _close_unused(self) -> None:
        if self.closed or self.connection.streams or self._paused:  # paused: the last bytes wait for resume_writing
            return
        self.flush()
        if self.tls is not None:
            self.tls.close()
            self.tls.give_output(self._write)
        self.fail(Reason.OK, "drained")

    def tick(self, now: float) -> None:
        """Called every second or so: handshake, ping and idle bounds."""
        self.connection.tick()
        if self.peer is None:
            if now - self._began > HANDSHAKE_SECONDS:
                self.fail(Reason.TLS_FAILURE, f"no TLS handshake within {HANDSHAKE_SECONDS:.0f} s")
            return
        if self._pinged and now - max(self._pinged, self._heard) > PING_TIMEOUT_SECONDS:
            self.fail(Reason.TUNNEL_LOST, f"no answer to a ping within {PING_TIMEOUT_SECONDS:.0f} s")
        elif not self.connection.streams and now - self._idle_since > IDLE_SECONDS:
            self.drain()
        elif not self._pinged and now - self._heard > PING_AFTER_SECONDS:
            self.ping()
