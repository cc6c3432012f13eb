"""A flow: two legs, what is recorded of them, and how they end.

The rules of ending: the end of one direction (FIN, END_STREAM) is passed on at once and the other direction goes on;
when both have ended, and nothing waits to be sent, the flow ends in order. A leg that is lost, by reset or otherwise,
resets the other: a stream that was cut must never look complete.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from nodeagent.http2.frames import Chunk
from nodeagent.reasons import Reason
from nodeagent.telemetry.flow import FlowRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from control.wire.discovery import Workload
    from nodeagent.policy.evaluate import Permit


class Leg(Protocol):
    """One end of a flow. ``peer`` is the other; ``received`` counts what this end's application sent."""

    received: int
    ended: bool

    @property
    def peer(self) -> Leg | None:
        """The other end; None until they are joined."""

    @property
    def unsent(self) -> bool:
        """Whether this end's application has not been sent everything; if so ``Flow.half_closed`` is called once it
        has.
        """

    def write(self, data: Chunk, *, last: bool = False) -> None:
        """Send to this end's application; what cannot be sent at once waits, and the peer is paused. ``last``:
        ``write_eof`` follows at once, so that both can go out together.
        """

    def takes_urgent(self) -> bool | None:
        """Whether an urgent byte can be sent to this end's application now: None: not yet, ask again; False: never."""

    def write_urgent(self, data: bytes) -> None:
        """Send one byte as urgent data, at its place in the stream; ``takes_urgent`` said that it can be."""

    def write_eof(self) -> None:
        """This end's application will get no more: half-close, after what waits. ``Flow.half_closed`` follows."""

    def pause_reading(self) -> None:
        """Take no more from this end's application until ``resume_reading``."""

    def resume_reading(self) -> None:
        """Go on."""

    def finish(self) -> None:
        """Both directions have ended: close in order."""

    def abort(self, reason: Reason) -> None:
        """Reset this end."""

    def quiet(self, now: float) -> float:
        """Seconds since bytes last moved at this end, either way; ``now`` is CLOCK_MONOTONIC."""


class JoinableLeg(Leg, Protocol):
    """A leg that keeps what its application sends until it is joined."""

    def join(self, peer: Leg) -> None:
        """From now on bytes go to ``peer``, those that waited first."""


class Shortcut(Protocol):
    """Bytes of a flow that go past its legs (``splicing.FlowSplice``)."""

    @property
    def relayed_because(self) -> str:
        """Why they do not go there now; nothing if they do."""

    def bytes(self) -> tuple[int, int]:
        """How many did: to the server, to the client."""

    def stop(self) -> None:
        """No more do."""

    def quiet(self, now: float) -> float:
        """Seconds since bytes last moved there; ``now`` is CLOCK_MONOTONIC."""


class FlowOwner(Protocol):
    """Who keeps a flow while it lives (``tracker.Tracker``)."""

    def opened(self, flow: Flow) -> None:
        """Both ends are connected."""

    def closed(self, flow: Flow) -> None:
        """The flow is over; its records are complete except for the end time."""


class Exchange:
    """One request of a flow that policy permits, as long as it does. At layer 4 a flow is one exchange; at layer 7 it
    may hold many, each with a permit and a destination of its own.
    """

    __slots__ = ("destination", "flow", "permit")

    def __init__(self, flow: Flow, destination: Workload, permit: Permit) -> None:
        self.flow = flow
        self.destination = destination
        self.permit = permit

    def revoke(self, reason: Reason, detail: str) -> None:
        """Policy permits it no more. At layer 4 that ends the flow."""
        self.flow.cut(reason, detail)


class Flow:
    """Two legs joined. ``record`` is reported by this node as source or destination; ``second`` is the other report
    of a same-node flow."""

    __slots__ = (
        "_when_closed", "destination", "done", "exchanges", "known_by", "opened", "owner", "record", "relayed_because",
        "second", "source", "spliced",
    )  # fmt: skip

    def __init__(self, owner: FlowOwner, record: FlowRecord, second: FlowRecord | None = None) -> None:
        self.owner = owner
        self.record = record
        self.second = second
        self.source: Leg | None = None
        self.destination: Leg | None = None
        self.known_by: tuple[str, ...] = ()
        """Whose change concerns it; the tracker's."""
        self.exchanges: list[Exchange] = []
        """What policy permitted; empty where the destination's agent decides."""
        self.spliced: Shortcut | None = None
        self.relayed_because = ""
        """Why a same-node flow is not spliced, where it never will be."""
        self._when_closed: list[Callable[[], None]] = []
        self.opened = False
        self.done = False

    def establish(self) -> None:
        """Both ends are connected and permitted."""
        if not self.done:
            self.opened = True
            self.owner.opened(self)

    def permit(self, destination: Workload, permit: Permit) -> None:
        """Policy permits the whole flow to this workload: it is one exchange."""
        self.exchanges.append(Exchange(self, destination, permit))

    def when_closed(self, call: Callable[[], None]) -> None:
        """Call this, once, when the flow is over."""
        self._when_closed.append(call)

    def half_closed(self) -> None:
        """A leg ended its direction, or sent the rest of the other's: see whether that was the last of it."""
        source, destination = self.source, self.destination
        if self.done or source is None or destination is None or not self.complete:
            return
        self._close(Reason.OK, "")
        source.finish()
        destination.finish()
        self._let_go()

    @property
    def complete(self) -> bool:
        """Both directions have ended and nothing waits: ``half_closed`` ends the flow."""
        source, destination = self.source, self.destination
        if source is None or destination is None or not (source.ended and destination.ended):
            return False
        if source.peer is None or destination.peer is None:  # what came before the legs were joined is yet to be passed
            return False
        return not (source.unsent or destination.unsent)

    def lost(self, leg: Leg, reason: Reason, detail: str = "") -> None:
        """A leg is gone before its end: reset the other."""
        if self.done:
            return
        self._close(reason, detail)
        for other in (self.source, self.destination):
            if other is not None and other is not leg:
                other.abort(reason)
        self._let_go()

    def cut(self, reason: Reason, detail: str = "") -> None:
        """Reset both ends, for example because policy no longer permits the flow."""
        if self.done:
            return
        self._close(reason, detail)
        for leg in (self.source, self.destination):
            if leg is not None:
                leg.abort(reason)
        self._let_go()

    def _let_go(self) -> None:
        """Nothing of a flow that is over refers to it in a circle: the memory is free at once, and without a search."""
        self.source = self.destination = None
        self._when_closed.clear()
        self.exchanges.clear()

    def refresh(self) -> None:
        """Bring the records' byte counts up to now."""
        sent = self.source.received if self.source is not None else 0
        received = self.destination.received if self.destination is not None else 0
        if self.spliced is not None:
            past_sent, past_received = self.spliced.bytes()
            sent, received = sent + past_sent, received + past_received
        self.record.bytes_sent, self.record.bytes_received = sent, received
        if self.second is not None:
            self.second.bytes_sent, self.second.bytes_received = sent, received

    def quiet(self, now: float) -> float:
        """Seconds since the flow last carried anything; ``now`` is CLOCK_MONOTONIC."""
        ways = [end.quiet(now) for end in (self.source, self.destination, self.spliced) if end is not None]
        return min(ways, default=0.0)

    def _close(self, reason: Reason, detail: str) -> None:
        self.done = True
        if (
            self.spliced is not None and self.opened and reason is not Reason.OK
        ):  # its applications may still be sending
            self.spliced.stop()
        self.refresh()
        for record in (self.record, self.second):
            if record is not None:
                record.reason = reason
                record.detail = detail
        for call in self._when_closed:
            call()
        self.owner.closed(self)
