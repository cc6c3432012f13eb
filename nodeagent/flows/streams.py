"""A tunnel's stream as a leg."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nodeagent.flows.urgent import UrgentWait
from nodeagent.http2.errors import ErrorCode
from nodeagent.http2.frames import Chunk
from nodeagent.http2.hpack.field import Field
from nodeagent.http2.stream import Stream
from nodeagent.reasons import Reason
from nodeagent.tunnel.codes import IDLE_TIMEOUT, URGENT_DATA

if TYPE_CHECKING:
    from collections.abc import Callable

    from nodeagent.flows.flow import Flow, Leg

CREDIT_BATCH: Final = 32 * 1024
"""Octets taken before the windows are told: a small request does not pay for flow control."""

_RESET_CODES: Final = {
    Reason.POLICY_REVOKED: ErrorCode.INADEQUATE_SECURITY,
    Reason.WORKLOAD_REMOVED: ErrorCode.INADEQUATE_SECURITY,
    Reason.DESTINATION_RESET: ErrorCode.CONNECT_ERROR,
    Reason.AGENT_SHUTDOWN: ErrorCode.NO_ERROR,
    Reason.IDLE_TIMEOUT: IDLE_TIMEOUT,
    Reason.URGENT_DATA: URGENT_DATA,
}
"""What a peer is told; any other reason is CANCEL. RFC 9113 section 8.5 gives CONNECT_ERROR to a reset of the TCP
connection.
"""


class StreamLeg:
    """One end of a flow on a tunnel. Bytes that come before ``join`` wait, bounded by the window that was granted."""

    __slots__ = (
        "_credit",
        "_early",
        "_end_waits",
        "_moved",
        "_moved_at",
        "_paused",
        "_wait",
        "ended",
        "flow",
        "flush",
        "on_answer",
        "on_reset",
        "peer",
        "received",
        "stream",
        "unsent",
    )

    def __init__(self, flow: Flow, stream: Stream, flush: Callable[[], None]) -> None:
        """``flush`` writes what the tunnel has to say at once, instead of at the end of the turn."""
        self.flow = flow
        self.flush = flush
        self.stream = stream
        self.peer: Leg | None = None
        self.received = 0
        self.ended = False
        self.unsent = False
        """Our application ended, and the last of its bytes wait for the window."""
        self.on_answer: Callable[[list[Field]], None] | None = None
        self.on_reset: Callable[[int], tuple[Reason, str]] | None = None
        self._early: list[tuple[Chunk, bool]] = []
        """What came before ``join``, or behind an urgent byte that waits; and whether it is urgent."""
        self._end_waits = False
        """The other node's application half-closed behind an urgent byte that waits."""
        self._wait: UrgentWait | None = None
        self._credit = 0
        self._paused = False
        self._moved = 0
        self._moved_at = 0.0
        stream.receiver = self

    def join(self, peer: Leg) -> None:
        """From now on bytes go to ``peer``, those that waited first."""
        self.peer = peer
        self._pass_on()

    # --- from the stream ---

    def data(self, piece: Chunk) -> None:
        """Bytes of the other node's application."""
        size = len(piece)
        self.received += size
        peer = self.peer
        if peer is None or self._early:
            self._early.append((bytes(piece), False))
            return
        peer.write(piece, last=self.stream.ending)
        self._credit += size
        if self._credit >= CREDIT_BATCH and not self._paused:
            self.stream.consumed(self._credit)
            self._credit = 0

    def urgent(self, piece: bytes) -> None:
        """An urgent byte of the other node's application."""
        self.received += len(piece)
        self._early.append((piece, True))
        if self.peer is not None and len(self._early) == 1:
            self._pass_on()

    def _pass_on(self) -> None:
        """What waited, up to an urgent byte that has to wait yet."""
        early, peer = self._early, self.peer
        passed = 0
        for piece, urgent in early:
            if peer is None:
                return
            if not urgent:
                peer.write(piece)
            elif peer.takes_urgent():
                peer.write_urgent(bytes(piece))
            else:
                if self._wait is None:
                    self._wait = UrgentWait(self.flow, self._pass_on)
                self._wait.begin(peer)
                break
            passed += 1
            self._credit += len(piece)
        del early[:passed]
        if self._credit and not self._paused:
            self.stream.consumed(self._credit)
            self._credit = 0
        if not early and (self.ended or self._end_waits):
            self.ended_by_peer()

    def ended_by_peer(self) -> None:
        """The other node's application half-closed."""
        if self.peer is not None and self._early:
            self._end_waits = True
            return
        self.ended = True
        if self.peer is not None:
            self.peer.write_eof()
            self.flow.half_closed()

    def reset(self, code: int) -> None:
        """The stream is gone."""
        reason, detail = self.on_reset(code) if self.on_reset else (Reason.SOURCE_RESET, "")
        self.flow.lost(self, reason, detail)
        self._let_go()

    def writable(self) -> None:
        """What waited was sent."""
        if self.unsent:
            self.unsent = False
            self.stream.end()
            self.flow.half_closed()
        elif self.peer is not None:
            self.peer.resume_reading()

    def interim(self, fields: list[Field]) -> None:
        """An interim answer means nothing to a tunnel."""

    def trailers(self, fields: list[Field]) -> None:
        """Trailers mean nothing to a tunnel."""

    def answered(self, fields: list[Field]) -> None:
        """The other node's agent answered."""
        if self.on_answer is not None:
            self.on_answer(fields)

    # --- from the flow ---

    def write(self, data: Chunk, *, last: bool = False) -> None:
        """Send to the other node. A ``memoryview`` is not kept."""
        if type(data) is memoryview:
            sent = self._send_lent(data)
            if sent == len(data):
                return
            data = bytes(data[sent:])
        if not self.stream.send(data) and self.peer is not None:
            self.peer.pause_reading()
        if not self.stream.output.has_room:  # a full batch
            self.flush()

    def _send_lent(self, data: memoryview) -> int:
        output = self.stream.output
        taken = output.batches
        sent = self.stream.send_lent(data)
        self.flush()  # while it is in the cache, and before it changes
        if output.batches == taken:
            output.keep()
        return sent

    def takes_urgent(self) -> bool | None:
        """What the agent of the other node said of it; None: nothing yet."""
        return self.stream.output.takes_urgent

    def write_urgent(self, data: bytes) -> None:
        """Send to the other node as urgent data."""
        if not self.stream.send_urgent(data) and self.peer is not None:
            self.peer.pause_reading()

    def write_eof(self) -> None:
        """Half-close towards the other node."""
        if self.stream.queue:
            self.unsent = True
        else:
            self.stream.end()

    def pause_reading(self) -> None:
        """The peer leg is full: what arrives still goes to it, but the sender is granted no more."""
        self._paused = True

    def resume_reading(self) -> None:
        """The peer leg caught up: grant what was held back."""
        self._paused = False
        if self._credit:
            self.stream.consumed(self._credit, keeps_up=False)
            self._credit = 0

    def finish(self) -> None:
        """Both directions have ended, and so has the stream."""
        self._let_go()

    def abort(self, reason: Reason) -> None:
        """Reset the stream."""
        self.stream.reset(_RESET_CODES.get(reason, ErrorCode.CANCEL))
        self._let_go()

    def _let_go(self) -> None:
        """The stream has nothing more to tell: see ``Flow``."""
        if self._wait is not None:
            self._wait.stop()
        self.stream.receiver = self.peer = self.on_answer = self.on_reset = self._wait = None

    def quiet(self, now: float) -> float:
        """Since a look that found something moved: bytes came, were sent, or were taken by the other node's
        application (which the windows tell, long after they left here)."""
        given = self.peer.received if self.peer is not None else 0  # a window and a queue can be as they were before
        moved = hash((self.received, given, self.stream.send_window, self.stream.queued))
        if moved != self._moved:
            self._moved, self._moved_at = moved, now
        return now - self._moved_at
