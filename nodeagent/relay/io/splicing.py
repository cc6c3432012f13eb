"""Same-node flows that the kernel may carry: which ones, and what the agent still does for them.

The agent keeps both sockets of a spliced flow and everything that is said about it; only bytes go the short way.
``Splicing`` is a worker's; where it is None every byte is relayed.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, TimerHandle
from typing import TYPE_CHECKING, Final, Protocol

from control.wire.address import SocketAddress
from control.wire.discovery import Workload
from nodeagent.reasons import Reason
from nodeagent.relay.io.flow import Flow

if TYPE_CHECKING:
    from nodeagent.splice.figures import SplicedBytes

BROKEN_SCAN_SECONDS: Final = 0.05
"""How long a reader may hang on bytes that it cannot see before its flow is reset."""
SPLICE_LABEL: Final = "nodemesh.io/splice"
"""Label of a workload; ``off`` keeps its flows in the relay."""
MAX_EXCLUDED: Final = 1024


class KernelSplice(Protocol):
    """What is used of ``splice.splicer.Splicer``."""

    def prepare(self, cookie: int, client: SocketAddress, listener: SocketAddress) -> int | None:
        """A flow's number; None: relay it."""

    def dialling(self, flow: int, descriptor: int) -> bool:
        """The agent's socket is going to connect to the server; False: the flow is relayed."""

    def offer(self, flow: int) -> bool:
        """Both ends are authorized: splice when it is safe. Whether to ask again after the next relayed chunk."""

    def forget(self, flow: int) -> None:
        """The flow has ended."""

    def counters(self, flow: int) -> SplicedBytes | None:
        """What went the short way."""

    def stuck(self, mine: set[int]) -> list[tuple[int, str]]:
        """Flows to be reset, each told once, and why."""


class FlowSplice:
    """One flow's splice."""

    __slots__ = ("_kernel", "number", "waiting")

    def __init__(self, kernel: KernelSplice, number: int) -> None:
        self._kernel = kernel
        self.number = number
        self.waiting = True

    def dialling(self, descriptor: int) -> None:
        """See ``KernelSplice``."""
        self.waiting = self._kernel.dialling(self.number, descriptor)

    def offer(self) -> None:
        """The flow is authorized, or a chunk was relayed: splice if it is safe now."""
        if self.waiting:
            self.waiting = self._kernel.offer(self.number)

    def bytes(self) -> tuple[int, int]:
        """Octets that went the short way: to the server, to the client."""
        counted = self._kernel.counters(self.number)
        return (0, 0) if counted is None else (counted.sent, counted.received)


class Splicing:
    """A worker's spliced flows."""

    def __init__(self, kernel: KernelSplice, loop: AbstractEventLoop) -> None:
        self._kernel = kernel
        self._loop = loop
        self._flows: dict[int, Flow] = {}
        self._excluded: dict[str, str] = {}
        self._timer: TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._flows)

    @property
    def excluded(self) -> dict[str, str]:
        """Workloads whose flows stay in the relay because one of theirs got stuck, and why."""
        return self._excluded

    def begin(self, flow: Flow, cookie: int, client: SocketAddress, listener: SocketAddress) -> FlowSplice | None:
        """A new same-node flow; None if it is to be relayed throughout."""
        ends = (flow.record.source, flow.record.destination)
        if any(end is None or self._kept_out(end) for end in ends):
            return None
        number = self._kernel.prepare(cookie, client, listener)
        if number is None:
            return None
        self._flows[number] = flow
        if self._timer is None:
            self._timer = self._loop.call_later(BROKEN_SCAN_SECONDS, self._look_for_stuck)
        return FlowSplice(self._kernel, number)

    def end(self, splice: FlowSplice) -> None:
        """The flow is over."""
        self._flows.pop(splice.number, None)
        self._kernel.forget(splice.number)

    def _kept_out(self, workload: Workload) -> bool:
        return workload.labels.get(SPLICE_LABEL) == "off" or workload.uid in self._excluded

    def _look_for_stuck(self) -> None:
        self._timer = None
        for number, why in self._kernel.stuck(set(self._flows)):
            flow = self._flows.get(number)
            if flow is not None:
                self._exclude(flow, why)
                flow.cut(Reason.SPLICE_STUCK, why)
        if self._flows:
            self._timer = self._loop.call_later(BROKEN_SCAN_SECONDS, self._look_for_stuck)

    def _exclude(self, flow: Flow, why: str) -> None:
        for workload in (flow.record.source, flow.record.destination):
            if workload is not None:
                self._excluded[workload.uid] = why
        while len(self._excluded) > MAX_EXCLUDED:  # the oldest may show again what it does
            del self._excluded[next(iter(self._excluded))]
