"""Everything of a worker that carries connections: there once the manager has said how."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nodeagent import channel
from nodeagent.capture.doors import WorkerSockets
from nodeagent.dns.io.service import DnsService
from nodeagent.flows.services import Services
from nodeagent.limits.excess import METRIC
from nodeagent.reasons import Reason
from nodeagent.relay.departures import OrphanReaper
from nodeagent.relay.inbound import Inbound
from nodeagent.relay.outbound import Outbound
from nodeagent.relay.status import flow_rows, tunnel_rows
from nodeagent.steps import Steps
from nodeagent.telemetry.metrics import FlowMetrics
from nodeagent.worker.listeners import WorkerListeners
from nodeagent.worker.namespaces import NetnsListeners


@dataclass(frozen=True, slots=True, kw_only=True)
class Carrier:
    """The rooms of the relay, put together. A feature that hears of changes or ticks hears of them here."""

    services: Services
    outbound: Outbound
    inbound: Inbound
    listeners: WorkerListeners
    inhabited: NetnsListeners
    departures: OrphanReaper
    sockets: WorkerSockets | None = None
    """None: nothing is captured on this node."""
    dns: DnsService | None = None
    """None: DNS questions are left alone."""

    def applied(self, changed: frozenset[tuple[str, str]]) -> Steps[int]:
        """These objects (kind, uid) changed: check live connections against them, in steps. Return how many were
        reset."""
        cut = yield from self.services.tracker.recheck(changed)
        self.outbound.pool.drop({uid for kind, uid in changed if kind == "workload"})
        if any(kind == "bundle" for kind, _ in changed):
            self.refresh()
        return cut

    def forget(self, gone: Iterable[str]) -> None:
        """These workloads are not in the mesh any more."""
        for uid in gone:
            self.outbound.reach.balancer.forget(uid)

    def departed(self, cgroups: Mapping[int, str], enrolled: Mapping[int, str]) -> int:
        """These enrolled cgroups were removed; how many connections were reset."""
        return self.departures.cgroups(cgroups, set(cgroups.values()) - set(enrolled.values()))

    def spread(self, workers: int) -> None:
        """New connections go to so many of the workers."""
        self.listeners.spread(workers)
        self.inhabited.spread(workers)

    def close_doors(self) -> None:
        """No further connection is accepted."""
        self.listeners.close()
        self.inhabited.close()
        self.inbound.threshold.close()

    def abort(self) -> None:
        """Accept nothing more and reset what is open: the worker stops at once."""
        self.close_doors()
        if self.dns is not None:
            self.dns.close_all()
        self.services.tracker.shut_down()
        for tunnel in (*self.outbound.pool, *self.inbound.tunnels):
            tunnel.fail(Reason.AGENT_SHUTDOWN, "the worker stops")

    def refresh(self) -> None:
        """SVIDs or bundles changed: tunnels that were made with former ones take no more streams."""
        self.outbound.pool.refresh()
        self.inbound.refresh()

    def exclude(self, workloads: Mapping[str, str], everybody: str) -> None:
        """These workloads (uid) are kept out of the splice on the whole node, and why; or why all are."""
        if self.services.splicing is not None:
            self.services.splicing.exclude(workloads, everybody)

    def tick(self, now: float) -> None:
        """Once a second or so."""
        self.outbound.pool.tick(now)
        self.inbound.tick(now)
        self.services.tracker.cut_idle(now)
        self.inhabited.bring_about()

    def load(self) -> channel.Load:
        """How busy this worker is."""
        return channel.Load(flows=len(self.services.tracker), cpu_seconds=time.process_time())

    def measure(self, metrics: FlowMetrics) -> None:
        """Bring gauges and the counts of live connections up to now."""
        services = self.services
        services.tracker.report_live()
        metrics.gauge("nodemesh_live_flows", len(services.tracker))
        metrics.gauge("nodemesh_worker_namespaces", len(self.inhabited))
        metrics.gauge("nodemesh_worker_tasks", len(services.tasks))
        metrics.gauge("nodemesh_tunnels", len(self.outbound.pool), direction="outbound")
        metrics.gauge("nodemesh_tunnels", len(self.inbound.tunnels), direction="inbound")
        metrics.gauge("nodemesh_unproved_connections", len(self.inbound.threshold))
        for (limit, owner), count in services.tracker.excess.counts.items():
            metrics.counter(METRIC, count, limit=limit, owner=owner)
        if services.splicing is not None:
            metrics.gauge("nodemesh_spliceable_flows", len(services.splicing))
            for operation, count in services.splicing.failures.items():
                metrics.counter("nodemesh_splice_failures_total", count, operation=operation)
        if self.dns is not None:
            for (protocol, outcome), count in self.dns.desk.outcomes.items():
                metrics.counter("nodemesh_dns_messages_total", count, protocol=protocol, outcome=outcome)

    def flows(self, number: int) -> channel.FlowList:
        """Live connections and tunnels, for operators."""
        flows, truncated = flow_rows(self.services.tracker)
        tunnels = tunnel_rows([*self.outbound.pool, *self.inbound.tunnels])
        return channel.FlowList(number=number, flows=flows, tunnels=tunnels, truncated=truncated)
