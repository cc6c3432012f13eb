"""An application's socket as a leg: the hot end of every flow. Plaintext, and never a TLS socket."""

from __future__ import annotations

from asyncio import BufferedProtocol, Protocol, Transport
from typing import TYPE_CHECKING, Final, cast

from nodeagent.namespaces.handle import Namespace
from nodeagent.reasons import Reason
from nodeagent.relay.io.sockets import descriptor_of, orderly_close, quiet_seconds, reset_on_close, write_now
from nodeagent.relay.protocol.frames import Chunk

if TYPE_CHECKING:
    from asyncio import BaseTransport
    from collections.abc import Callable

    from nodeagent.relay.io.flow import Flow, Leg

WRITE_HIGH_WATER: Final = 256 * 1024
"""Octets that wait in an application's socket before the other end is paused."""
LARGE_READ: Final = 32 * 1024
"""An application that sends so much at once is read into the worker's buffer from then on."""
LENT_FROM: Final = 8 * 1024
"""Shorter reads are copied out of it: they may wait for the end of the turn, to be written with others."""


class AppLeg(Protocol):
    """A connection to an application, accepted (its client) or dialled (its server).

    Until ``join`` gives it a peer at most one read is kept; after that reading pauses and TCP's window holds the
    application.
    """

    __slots__ = (
        "_buffer", "_descriptor", "_early", "_reset", "after_chunk", "ended", "flow", "home", "peer", "received",
        "transport",
    )  # fmt: skip

    def __init__(
        self,
        flow: Flow | None = None,
        *,
        dialled: bool = False,
        buffer: memoryview | None = None,
        home: Namespace | None = None,
    ) -> None:
        """``buffer`` is the worker's, for large reads: what is in it is passed on, or copied, before the next read."""
        self.flow = flow
        self._buffer = buffer
        self._descriptor = -1
        self.peer: Leg | None = None
        self.transport: Transport | None = None
        self.home = home
        """The network namespace that its socket is in; None: the agent's own."""
        self.received = 0
        self.ended = False
        self.after_chunk: Callable[[], None] | None = None
        """Called when bytes of this application were passed on."""
        self._early = b""
        self._reset = Reason.DESTINATION_RESET if dialled else Reason.SOURCE_RESET

    def connection_made(self, transport: BaseTransport) -> None:
        """A dialled socket is there; it waits for ``join``."""
        self.transport = cast(Transport, transport)
        self.transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        if self._reset is Reason.DESTINATION_RESET:
            reset_on_close(transport)  # an accepted socket has it from its listener
        if self.flow is not None and self.flow.done:
            self.transport.abort()

    def join(self, peer: Leg) -> None:
        """From now on bytes go to ``peer``."""
        self.peer = peer
        early, self._early = self._early, b""
        self.resume_reading()
        if early:
            peer.write(early)
            if self.after_chunk is not None:
                self.after_chunk()
        if self.ended:
            peer.write_eof()
            if self.flow is not None:
                self.flow.half_closed()

    def data_received(self, data: bytes) -> None:
        """Bytes of the application."""
        size = len(data)
        self.received += size
        peer = self.peer
        if peer is not None:
            peer.write(data)
            if self.after_chunk is not None:
                self.after_chunk()
            if size >= LARGE_READ and self._buffer is not None:
                self._read_much(self._buffer)
        else:
            self._early += data
            self.pause_reading()

    def lent(self, data: memoryview) -> None:
        """As ``data_received``, of bytes in the worker's buffer."""
        self.received += len(data)
        if self.peer is not None:
            self.peer.write(data if len(data) >= LENT_FROM else bytes(data))
            if self.after_chunk is not None:
                self.after_chunk()

    def _read_much(self, buffer: memoryview) -> None:
        transport, self._buffer = self.transport, None
        if transport is None or transport.is_closing():
            return
        reads = transport.is_reading()  # the transport asks for its protocol's kind when it starts to read
        if reads:
            transport.pause_reading()
        transport.set_protocol(_LargeReads(self, buffer))
        if reads:
            transport.resume_reading()

    def eof_received(self) -> bool:
        """The application half-closed; the other direction goes on."""
        self.ended = True
        if self.peer is not None and self.flow is not None:
            self.peer.write_eof()
            self.flow.half_closed()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone: in order if the flow is done, else a reset to be passed on."""
        if self.flow is not None and not self.flow.done:
            self.flow.lost(self, self._reset, str(exc) if exc else "")
        self.transport = None
        self.peer = None

    def pause_writing(self) -> None:
        """The application reads too slowly."""
        if self.peer is not None:
            self.peer.pause_reading()

    def resume_writing(self) -> None:
        """The application caught up; after ``write_eof``: it was sent the last byte."""
        if self.peer is not None:
            self.peer.resume_reading()
            if self.peer.ended and self.flow is not None:
                self.flow.half_closed()

    def write(self, data: Chunk) -> None:
        """Send to the application. A ``memoryview`` is not kept."""
        if self.transport is None:
            return
        if type(data) is memoryview:
            if self._descriptor < 0:
                self._descriptor = descriptor_of(self.transport)
            write_now(self.transport, self._descriptor, data)
        else:
            self.transport.write(data)

    def write_eof(self) -> None:
        """Half-close towards the application."""
        if self.transport is not None and not self.transport.is_closing():
            if self.transport.get_write_buffer_size():
                self.transport.set_write_buffer_limits(high=0)  # so that resume_writing tells when nothing waits
            self.transport.write_eof()

    @property
    def unsent(self) -> bool:
        """Whether bytes wait for the application."""
        return self.transport is not None and self.transport.get_write_buffer_size() > 0

    def pause_reading(self) -> None:
        """Stop taking bytes from the application; its TCP window does the rest."""
        if self.transport is not None and self.transport.is_reading():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Take bytes again."""
        if self.ended or self.transport is None:  # a read after the end would only report the end again
            return
        if not self.transport.is_closing() and not self.transport.is_reading():
            self.transport.resume_reading()

    def finish(self) -> None:
        """Close in order; nothing is ``unsent``, so that the death of the agent cannot turn a rest into an end."""
        if self.transport is not None:
            orderly_close(self.transport)
            self.transport.close()

    def abort(self, _reason: Reason) -> None:
        """Reset the connection."""
        if self.transport is not None:
            self.transport.abort()

    def quiet(self, _now: float) -> float:
        """As the kernel has it: bytes that wait here for a slow reader count when it takes them."""
        return quiet_seconds(self.transport) if self.transport is not None else 0.0


class _LargeReads(BufferedProtocol):
    """The leg's protocol once its application has sent much at a time: no object and no copy for each read."""

    __slots__ = ("_buffer", "_leg")

    def __init__(self, leg: AppLeg, buffer: memoryview) -> None:
        self._leg = leg
        self._buffer = buffer

    def get_buffer(self, sizehint: int) -> memoryview:
        """One place for all connections of the worker."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes of the application."""
        self._leg.lent(self._buffer[:nbytes])

    def eof_received(self) -> bool:
        """See ``AppLeg``."""
        return self._leg.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``AppLeg``."""
        self._leg.connection_lost(exc)

    def pause_writing(self) -> None:
        """See ``AppLeg``."""
        self._leg.pause_writing()

    def resume_writing(self) -> None:
        """See ``AppLeg``."""
        self._leg.resume_writing()
