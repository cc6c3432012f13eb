"""An application's socket as a leg: the hot end of every flow. Plaintext, and never a TLS socket."""

from __future__ import annotations

from asyncio import BufferedProtocol
from typing import TYPE_CHECKING, Final, cast

from nodeagent.flows.urgent import Unread, UrgentWait, nothing_unread
from nodeagent.http2.frames import Chunk
from nodeagent.namespaces.handle import Namespace
from nodeagent.net.sockets import orderly_close, quiet_seconds
from nodeagent.reasons import Reason

if TYPE_CHECKING:
    from asyncio import BaseTransport
    from collections.abc import Callable

    from nodeagent.flows.flow import Flow, Leg
    from nodeagent.net.transport import SocketTransport

WRITE_HIGH_WATER: Final = 256 * 1024
"""Octets that wait in an application's socket before the other end is paused."""
LENT_FROM: Final = 8 * 1024
"""Shorter reads are copied out of the worker's buffer: they may wait for the end of the turn, to be written with
others.
"""


class AppLeg(BufferedProtocol):
    """A connection to an application, accepted (its client) or dialled (its server).

    Until ``join`` gives it a peer at most one read is kept; after that reading pauses and TCP's window holds the
    application.
    """

    __slots__ = (
        "_buffer", "_early", "_reset", "_stopped", "_wait", "after_chunk", "ended", "flow", "home", "peer", "received",
        "transport", "unread",
    )  # fmt: skip

    def __init__(
        self, buffer: memoryview, flow: Flow | None = None, *, dialled: bool = False, home: Namespace | None = None
    ) -> None:
        """``buffer`` is the worker's: what is in it is passed on, or copied, before the next read."""
        self.flow = flow
        self._buffer = buffer
        self.peer: Leg | None = None
        self.transport: SocketTransport | None = None
        self.home = home
        """The network namespace that its socket is in; None: the agent's own."""
        self.received = 0
        self.ended = False
        self.after_chunk: Callable[[], None] | None = None
        """Called when bytes of this application were passed on."""
        self.unread: Unread = nothing_unread
        """Bytes that the kernel carries past TCP and that were not read."""
        self._wait: UrgentWait | None = None
        self._stopped = False
        """The peer has enough, or there is none."""
        self._early = b""
        self._reset = Reason.DESTINATION_RESET if dialled else Reason.SOURCE_RESET

    def connection_made(self, transport: BaseTransport) -> None:
        """A dialled socket is there; it waits for ``join``."""
        self.transport = cast("SocketTransport", transport)
        self.transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
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

    def get_buffer(self, sizehint: int) -> memoryview:
        """One place for all connections of the worker: no object and no copy for each read."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes of the application."""
        self.received += nbytes
        data, peer = self._buffer[:nbytes], self.peer
        if peer is not None:
            peer.write(data if nbytes >= LENT_FROM else bytes(data))
            if self.after_chunk is not None:
                self.after_chunk()
        else:
            self._early += data
            self.pause_reading()

    def reads_past_tcp(self) -> bool:
        """Whether bytes of the application wait that are read before those of TCP."""
        return self.unread().by_agent > 0

    def urgent_due(self) -> bool:
        """The application's next byte is urgent: it stays unread until the peer takes it."""
        flow, peer = self.flow, self.peer
        if flow is None or peer is None:
            self.pause_reading()
            return False
        if peer.takes_urgent():
            return True
        if self.transport is not None:
            self.transport.pause_reading()
        if self._wait is None:
            self._wait = UrgentWait(flow, self._urgent_again)
        self._wait.begin(peer)
        return False

    def _urgent_again(self) -> None:
        if not self._stopped:
            self.resume_reading()

    def urgent_received(self, data: bytes) -> None:
        """The urgent byte of the application."""
        self.received += len(data)
        if self.peer is not None:
            self.peer.write_urgent(data)

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
        if self._wait is not None:
            self._wait.stop()
        self.transport = self.peer = self.flow = self.after_chunk = self._wait = None
        self.unread = nothing_unread

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

    def write(self, data: Chunk, *, last: bool = False) -> None:
        """Send to the application. A ``memoryview`` is not kept."""
        if self.transport is not None:
            self.transport.write(data, last=last)

    def takes_urgent(self) -> bool | None:
        """Not before the application has read what the kernel carried past TCP: it would read that as urgent."""
        return None if self.unread().by_application else True

    def write_urgent(self, data: bytes) -> None:
        """Send to the application as urgent data."""
        if self.transport is not None:
            self.transport.write_urgent(data)

    def write_eof(self) -> None:
        """Half-close towards the application; unless ``finish`` is what follows, which does so anyway."""
        if self.transport is not None and not self.transport.is_closing():
            if self.ended and self.flow is not None and self.flow.complete:
                return
            if self.transport.get_write_buffer_size():
                self.transport.set_write_buffer_limits(high=0)  # so that resume_writing tells when nothing waits
            self.transport.write_eof()

    @property
    def unsent(self) -> bool:
        """Whether bytes wait for the application."""
        return self.transport is not None and self.transport.get_write_buffer_size() > 0

    def pause_reading(self) -> None:
        """Stop taking bytes from the application; its TCP window does the rest."""
        self._stopped = True
        if self.transport is not None and self.transport.is_reading():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Take bytes again."""
        self._stopped = False
        if self._wait is not None and self._wait.waits:  # whose end resumes
            return
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
