"""Every live flow of a worker, and the check of those that a change concerns: what policy no longer permits is cut at
once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Final

from control.wire.discovery import Workload
from nodeagent.flows.flow import Flow
from nodeagent.flows.idle import IdleSweep
from nodeagent.flows.settings import FlowSettings
from nodeagent.limits.excess import Excess
from nodeagent.policy.authorizer import Authorizer
from nodeagent.policy.evaluate import Denial
from nodeagent.reasons import Reason
from nodeagent.state.view import NodeState
from nodeagent.steps import Steps
from nodeagent.telemetry.accesslog import Log
from nodeagent.telemetry.flow import FlowRecord, owner_of
from nodeagent.telemetry.metrics import FlowMetrics

MAX_FLOWS: Final = 65_536
"""Flows that one worker carries, of all owners; further connections are refused as OVERLOADED."""
FEW_FLOWS: Final = 64
CHECKED_AT_ONCE: Final = 32
"""Flows that one step of ``recheck`` looks at."""


class Tracker:
    """The worker's flows, by the workloads at their ends. ``clock`` is wall time in seconds."""

    def __init__(
        self, state: NodeState, authorizer: Authorizer, metrics: FlowMetrics, log: Log, clock: Callable[[], float],
        excess: Excess | None = None,
    ) -> None:  # fmt: skip
        self._state = state
        self._authorizer = authorizer
        self._metrics = metrics
        self._log = log
        self._clock = clock
        self.settings = FlowSettings(state)
        self._idle = IdleSweep(self.settings)
        self._next_id = 0
        self._flows: dict[int, Flow] = {}
        self._held: Counter[str] = Counter()
        self.excess = excess or Excess()
        self._by_workload: dict[str, set[Flow]] = {}
        self.when_empty: Callable[[], None] | None = None
        self.when_doubled: Callable[[], None] | None = None
        """Called when there are twice as many flows as when it was last called (from ``FEW_FLOWS`` on)."""
        self.when_switched: Callable[[], None] | None = None
        """Called when a workload or a service turned its splice switch."""
        self._doubles_at = FEW_FLOWS

    @property
    def flows(self) -> Iterable[Flow]:
        """Live flows, oldest first."""
        return self._flows.values()

    def __len__(self) -> int:
        return len(self._flows)

    def crowded(self, owner: str) -> str:
        """Why no further flow of this owner (``owner_of``) is taken; empty if one is. Nobody may have more than its
        share, nor more than is left for all others: so something is left for a newcomer.
        """
        free, held = MAX_FLOWS - len(self._flows), self._held[owner]
        if free <= 0:
            return f"this worker carries {MAX_FLOWS} connections and takes no further one"
        if held < free and held < self.excess.limits.flows_per_workload:
            return ""
        return self.excess.refused("flows_per_workload", owner)

    def next_id(self) -> int:
        """A number for a new flow, unique in this worker."""
        self._next_id += 1
        return self._next_id

    def now(self) -> float:
        """Wall time, seconds since 1970."""
        return self._clock()

    def add(self, flow: Flow) -> None:
        """A flow was decided and is being established."""
        self._flows[flow.record.flow_id] = flow
        self._held[owner_of(flow.record)] += 1
        flow.known_by = _ends(flow.record)
        for uid in flow.known_by:
            held = self._by_workload.get(uid)
            if held is None:
                held = self._by_workload[uid] = set()
            held.add(flow)
        if len(self._flows) >= self._doubles_at and self.when_doubled is not None:
            self._doubles_at = 2 * len(self._flows)
            self.when_doubled()

    def opened(self, flow: Flow) -> None:
        """Both ends are connected."""
        for record in (flow.record, flow.second):
            if record is not None:
                record.established = True
                self._metrics.opened(record)

    def closed(self, flow: Flow) -> None:
        """The flow is over; its records are complete but for the time."""
        if self._flows.pop(flow.record.flow_id, None) is not None:
            self._release(owner_of(flow.record))
        if len(self._flows) < self._doubles_at // 4:
            self._doubles_at = max(FEW_FLOWS, self._doubles_at // 2)
        for uid in flow.known_by:
            held = self._by_workload.get(uid)
            if held is not None:
                held.discard(flow)
                if not held:
                    del self._by_workload[uid]
        self.report(flow.record)
        if flow.second is not None:
            self.report(flow.second)
        if not self._flows and self.when_empty is not None:
            self.when_empty()

    def _release(self, owner: str) -> None:
        self._held[owner] -= 1
        if self._held[owner] <= 0:
            del self._held[owner]

    def report(self, record: FlowRecord) -> None:
        """A connection is over (or was refused before it became a flow): count it and log it."""
        record.ended = self._clock()
        self._metrics.closed(record)
        self._log.write(record)

    def report_live(self) -> None:
        """Count the bytes of open flows up to now."""
        for flow in self._flows.values():
            if flow.opened:
                flow.refresh()
                self._metrics.report_live(flow.record)
                if flow.second is not None:
                    self._metrics.report_live(flow.second)

    def cut_idle(self, now: float) -> int:
        """Reset flows that carried nothing for longer than they may; a part of all at each call, to be made every
        second or so. ``now`` is CLOCK_MONOTONIC seconds. How many were reset."""
        return self._idle.tick(self._flows, now)

    def recheck(self, changed: Collection[tuple[str, str]]) -> Steps[int]:
        """Look again, in steps, at the flows that these changes (kind, uid) concern; revoke what policy refuses now.
        Returns how many flows and exchanges were revoked.
        """
        if self.settings.changed(changed) and self.when_switched is not None:
            self.when_switched()
        uids = {uid for kind, uid in changed if kind in ("workload", "service")}
        policies = {uid for kind, uid in changed if kind == "policy"}
        if policies:
            uids |= {uid for uid in self._by_workload if self._selected(uid, policies)}
        revoked = checked = 0
        for uid in uids:
            for flow in tuple(self._by_workload.get(uid, ())):
                revoked += self._check(flow)
                checked += 1
                if checked % CHECKED_AT_ONCE == 0:
                    yield
        return revoked

    def _check(self, flow: Flow) -> int:
        if flow.done:
            return 0
        why = self._ends_changed(flow.record)
        if why is not None:
            flow.cut(*why)
            return 1
        revoked = 0
        for exchange in tuple(flow.exchanges):
            verdict = self._authorizer.authorize(exchange.destination, exchange.permit.connection)
            if isinstance(verdict, Denial):
                exchange.revoke(Reason.POLICY_REVOKED, verdict.detail)
                revoked += 1
            else:
                exchange.permit = verdict
        return revoked

    def shut_down(self) -> int:
        """Reset what is still open; how many that were."""
        left = tuple(self._flows.values())
        for flow in left:
            flow.cut(Reason.AGENT_SHUTDOWN, "the drain time is over")
        return len(left)

    def _selected(self, uid: str, policies: set[str]) -> bool:
        workload = self._state.workload(uid)
        return workload is None or not policies.isdisjoint(workload.policies)

    def _ends_changed(self, record: FlowRecord) -> tuple[Reason, str] | None:
        """Why a flow between these ends cannot go on, whatever policy says."""
        for held in (record.source, record.destination):
            if held is not None and not self._unchanged(held):
                return Reason.WORKLOAD_REMOVED, f"workload {held.uid} is gone, or is another one now"
        service = record.service
        if service is not None and service.external is not None and self._state.service(service.uid) is None:
            return Reason.ENTRY_REMOVED, f"no ServiceEntry names {service.hostname} any more"
        return None

    def _unchanged(self, held: Workload) -> bool:
        current = self._state.workload(held.uid)
        return current is not None and current.identity == held.identity and current.node == held.node


def _ends(record: FlowRecord) -> tuple[str, ...]:
    ends = tuple([w.uid for w in (record.source, record.destination) if w is not None])
    service = record.service
    return (*ends, service.uid) if service is not None and service.external is not None else ends
