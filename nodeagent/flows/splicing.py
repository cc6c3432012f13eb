"""Same-node flows that the kernel may carry: which ones, and what the agent still does for them.

The agent keeps both sockets of a spliced flow and everything that is said about it; only bytes go the short way.
``Splicing`` is a worker's; where it is None every byte is relayed.

Of flows that leave the node the agent needs every byte; there the kernel may join each leg, the application's socket
and the agent's (``LegSplice``), and spare the way through TCP.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from control.wire.address import SocketAddress
from nodeagent.flows.flow import Flow
from nodeagent.flows.settings import FlowSettings
from nodeagent.flows.urgent import PastTcp
from nodeagent.namespaces.handle import Namespace
from nodeagent.net.sockets import descriptor_of, local_address, remote_address
from nodeagent.reasons import Reason
from nodeagent.telemetry.flow import FlowRecord, Reporter

if TYPE_CHECKING:
    from control.wire.discovery import Workload
    from nodeagent.flows.app import AppLeg
    from nodeagent.splice.figures import SplicedBytes

HERE: Final = -1
"""Instead of a network namespace's id: the agent's own."""
LEG_CHUNKS: Final = 3
"""Chunks of an application after which its leg is joined: entering and leaving costs more than a short connection."""
BROKEN_SCAN_SECONDS: Final = 0.05
"""How long a reader may hang on bytes that it cannot see before its flow is reset."""


Home = Namespace | None
"""Where a workload lives; None: in the agent's own network namespace."""


class KernelSplice(Protocol):
    """What is used of ``splice.port.SplicePort``."""

    failures: dict[str, int]
    """What the kernel refused so far, by what was asked."""

    def prepare(
        self, cookie: int, client: SocketAddress, listener: SocketAddress, places: tuple[int, int]
    ) -> int | None:
        """A flow's number; None: relay it. ``places``: ids of the network namespaces of client and server, HERE for
        the agent's own."""

    def dialling(self, flow: int, descriptor: int) -> bool:
        """The agent's socket is going to connect to the server; False: the flow is relayed."""

    def prepare_leg(
        self, cookie: int, descriptor: int, ends: tuple[SocketAddress, SocketAddress], place: int
    ) -> tuple[int, bool] | None:
        """A leg's number, and whether it is prepared or to be asked for again; None: TCP carries it. ``cookie`` of the
        client's socket; 0 if the agent's own, with this ``descriptor``, is the client. ``ends``: of client and server.
        """

    def offer(self, flow: int) -> bool:
        """Both ends are authorized: splice when it is safe. Whether to ask again after the next relayed chunk."""

    def withdraw(self, flow: int) -> None:
        """Back to relay, breaking nothing, until it is offered again."""

    def forget(self, flow: int) -> None:
        """The flow has ended."""

    def counters(self, flow: int) -> SplicedBytes | None:
        """What went the short way."""

    def unread(self, flow: int) -> tuple[int, int]:
        """Octets that went the short way and were not read yet: by the server, by the client."""

    def relayed_because(self, flow: int) -> str:
        """Why the kernel does not splice it now; nothing if it does."""

    def stuck(self, mine: set[int]) -> list[tuple[int, str]]:
        """Flows to be reset, each told once, and why."""


class FlowSplice:
    """One flow's splice."""

    __slots__ = ("_kernel", "_read", "_read_at", "kept_out", "number", "waiting")

    def __init__(self, kernel: KernelSplice, number: int) -> None:
        self._kernel = kernel
        self.number = number
        self.waiting = True
        self.kept_out = ""
        """Why it is to be relayed for the time being."""
        self._read = 0
        self._read_at = 0.0

    def dialling(self, descriptor: int) -> None:
        """See ``KernelSplice``."""
        self.waiting = self._kernel.dialling(self.number, descriptor)

    def offer(self) -> None:
        """The flow is authorized, or a chunk was relayed: splice if it is safe now."""
        if self.waiting and not self.kept_out:
            self.waiting = self._kernel.offer(self.number)

    def keep_out(self, why: str) -> None:
        """Relay it for this reason; none: splice it again as soon as it is safe. Neither breaks it."""
        before, self.kept_out = self.kept_out, why
        if why and not before:
            self._kernel.withdraw(self.number)
        elif before and not why:
            self.waiting = True
            self.offer()

    def stop(self) -> None:
        """Nothing more goes the short way; ``bytes`` is final."""
        self._kernel.withdraw(self.number)

    def bytes(self) -> tuple[int, int]:
        """Octets that went the short way: to the server, to the client."""
        counted = self._kernel.counters(self.number)
        return (0, 0) if counted is None else (counted.sent, counted.received)

    def unread_by_server(self) -> PastTcp:
        """At the socket of the flow's server."""
        return PastTcp(self._kernel.unread(self.number)[0], 0)

    def unread_by_client(self) -> PastTcp:
        """At the socket of the flow's client."""
        return PastTcp(self._kernel.unread(self.number)[1], 0)

    def quiet(self, now: float) -> float:
        """Seconds since bytes were last redirected, or were found to have been read; ``now`` is CLOCK_MONOTONIC."""
        counted = self._kernel.counters(self.number)
        if counted is None:
            return now
        if counted.read != self._read:
            self._read, self._read_at = counted.read, now
        return max(0.0, now - max(counted.last_activity, self._read_at))

    @property
    def relayed_because(self) -> str:
        """Why its bytes do not go the short way now; nothing if they do."""
        return self.kept_out or self._kernel.relayed_because(self.number)


class LegSplice(FlowSplice):
    """One leg of a flow that leaves the node: bytes between the application and the agent go past TCP."""

    __slots__ = ("_app", "_cookie", "_prepared", "_splicing", "_to_come", "flow")

    def __init__(self, kernel: KernelSplice, splicing: Splicing, flow: Flow, app: AppLeg, cookie: int) -> None:
        """``cookie`` of the application's socket if that is the client; 0 if the agent dialled it."""
        super().__init__(kernel, 0)
        self._splicing = splicing
        self._app = app
        self._cookie = cookie
        self._prepared = False
        self._to_come = LEG_CHUNKS
        self.flow = flow

    def offer(self) -> None:
        """A chunk was read: join the leg when there were enough of them, and it is safe."""
        if self._to_come:
            self._to_come -= 1
            return
        if self._prepared or self._prepare():
            super().offer()
        if not self.waiting or self.kept_out:
            self._app.after_chunk = None

    def keep_out(self, why: str) -> None:
        """See ``FlowSplice``."""
        super().keep_out(why)
        if self.waiting and not why:
            self._app.after_chunk = self.offer

    def unread(self) -> PastTcp:
        """At both ends of the leg."""
        by_server, by_client = self._kernel.unread(self.number)
        return PastTcp(by_client, by_server) if self._cookie else PastTcp(by_server, by_client)

    def _prepare(self) -> bool:
        transport, splicing = self._app.transport, self._splicing
        ours, theirs = (None, None) if transport is None else (local_address(transport), remote_address(transport))
        self.waiting = False
        if transport is None or ours is None or theirs is None or splicing.kept_out(self.flow.record):
            return False
        try:
            place = _place(self._app.home)
        except OSError:  # the namespace is going
            return False
        ends = (theirs, ours) if self._cookie else (ours, theirs)
        answer = self._kernel.prepare_leg(self._cookie, descriptor_of(transport), ends, place)
        if answer is not None:
            self.waiting = True
            self.number, self._prepared = answer
        if self._prepared:
            self._app.unread = self.unread
            splicing.begin_leg(self)
        return self._prepared


class Splicing:
    """A worker's spliced flows, and the legs of others."""

    def __init__(self, kernel: KernelSplice, loop: AbstractEventLoop, settings: FlowSettings) -> None:
        self._kernel = kernel
        self._loop = loop
        self._settings = settings
        self._flows: dict[int, tuple[Flow, FlowSplice]] = {}
        self._excluded: Mapping[str, str] = {}
        self._everybody = ""
        self._timer: TimerHandle | None = None
        self.on_stuck: Callable[[dict[str, str]], None] | None = None
        """Told the uids of workloads that are to be kept out on the whole node, and why."""

    def __len__(self) -> int:
        return len(self._flows) - self.legs

    @property
    def legs(self) -> int:
        """Legs of flows that leave the node which the kernel may carry."""
        return sum(isinstance(splice, LegSplice) for _, splice in self._flows.values())

    @property
    def failures(self) -> dict[str, int]:
        """What the kernel refused so far, by what was asked: those flows are relayed."""
        return self._kernel.failures

    def exclude(self, workloads: Mapping[str, str], everybody: str = "") -> None:
        """All workloads (by uid) of which a flow got stuck on this node, and why: theirs are relayed from now on.
        ``everybody``: why those of all others are too, if they are.
        """
        self._excluded, self._everybody = dict(workloads), everybody
        self.reconsider()

    def reconsider(self) -> None:
        """Settings changed: live flows go back to relay, or may be spliced again."""
        for flow, splice in tuple(self._flows.values()):
            splice.keep_out(self.kept_out(flow.record))

    def begin(
        self, flow: Flow, cookie: int, ends: tuple[SocketAddress, SocketAddress], homes: tuple[Home, Home]
    ) -> FlowSplice | None:
        """A new same-node flow; None if it is to be relayed throughout. ``ends`` of the captured connection: the client
        and the agent's listener. ``homes``: where client and server live.
        """
        if flow.record.source is None or flow.record.destination is None:
            return None
        flow.relayed_because = self.kept_out(flow.record)
        if flow.relayed_because:
            return None
        try:
            places = (_place(homes[0]), _place(homes[1]))
        except OSError as error:
            flow.relayed_because = str(error)
            return None
        number = self._kernel.prepare(cookie, *ends, places)
        if number is None:
            flow.relayed_because = "the kernel does not take it"
            return None
        splice = FlowSplice(self._kernel, number)
        self._watch(flow, splice)
        return splice

    def leg(self, flow: Flow, app: AppLeg, cookie: int = 0) -> None:
        """A new flow from or to another node, and its connection to the application of this node: accepted from the
        captured socket ``cookie``, or dialled. It is joined when it has turned out not to be a short one.
        """
        app.after_chunk = LegSplice(self._kernel, self, flow, app, cookie).offer

    def begin_leg(self, splice: LegSplice) -> None:
        """The kernel knows it from now on."""
        splice.flow.when_closed(partial(self.end, splice))
        self._watch(splice.flow, splice)

    def _watch(self, flow: Flow, splice: FlowSplice) -> None:
        self._flows[splice.number] = (flow, splice)
        if self._timer is None:
            self._timer = self._loop.call_later(BROKEN_SCAN_SECONDS, self._look_for_stuck)

    def end(self, splice: FlowSplice) -> None:
        """The flow is over."""
        if self._flows.pop(splice.number, None) is not None:
            self._kernel.forget(splice.number)

    def kept_out(self, record: FlowRecord) -> str:
        """Why a flow is to be relayed; empty if it may be spliced."""
        if self._everybody:
            return self._everybody
        who = self._settings.switched_off(record)
        if who:
            return f"switched off by {who}"
        for workload in (record.source, record.destination):
            why = self._excluded.get(workload.uid) if workload is not None and self._excluded else None
            if workload is not None and why is not None:
                return f"a flow of workload {workload.namespace}/{workload.name} got stuck ({why})"
        return ""

    def _look_for_stuck(self) -> None:
        self._timer = None
        for number, why in self._kernel.stuck(set(self._flows)):
            found = self._flows.get(number)
            if found is not None:
                flow, splice = found
                flow.cut(Reason.SPLICE_STUCK, why)
                self._exclude(_local(flow, splice), why)
        if self._flows:
            self._timer = self._loop.call_later(BROKEN_SCAN_SECONDS, self._look_for_stuck)

    def _exclude(self, workloads: tuple[Workload | None, ...], why: str) -> None:
        """Here at once; the manager tells everybody, us included, and keeps it."""
        stuck = {w.uid: why for w in workloads if w is not None}
        self.exclude({**self._excluded, **stuck}, self._everybody)
        if self.on_stuck is not None:
            self.on_stuck(stuck)


def _local(flow: Flow, splice: FlowSplice) -> tuple[Workload | None, ...]:
    """The workloads of this node whose sockets it has."""
    if not isinstance(splice, LegSplice):
        return flow.record.source, flow.record.destination
    return (flow.record.source if flow.record.reporter is Reporter.SOURCE else flow.record.destination,)


def _place(home: Home) -> int:
    return HERE if home is None else home.id_here
