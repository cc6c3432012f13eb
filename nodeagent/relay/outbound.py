"""Captured connections: accepted, decided, and handed to whichever way reaches their destination."""

from __future__ import annotations

import logging
import os
from asyncio import BaseTransport
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from control.wire.address import SocketAddress
from control.wire.discovery import Workload
from nodeagent.flows.app import AppLeg
from nodeagent.flows.flow import Flow
from nodeagent.flows.reach.attempt import UnwatchedAttempt
from nodeagent.flows.reach.external import ExternalDestination
from nodeagent.flows.reach.local import LocalDestination
from nodeagent.flows.reach.remote import RemoteDestination
from nodeagent.flows.reach.ways import Reach
from nodeagent.flows.services import Services
from nodeagent.namespaces.handle import Namespace
from nodeagent.net.sockets import remote_address
from nodeagent.policy.evaluate import Permit
from nodeagent.reasons import Reason
from nodeagent.relay import decide
from nodeagent.relay.decide import ExternalPlan, OutboundPlan, Refusal
from nodeagent.state.targets import Unresolved
from nodeagent.telemetry.flow import UNKNOWN_OWNER, FlowRecord, Reporter, Security
from nodeagent.tunnel.pool import Pool

if TYPE_CHECKING:
    from nodeagent.capture.origdst import AcceptedSocket, CapturedFlow

DNS_PORT: Final = 53
_log = logging.getLogger("nodeagent.relay")


class OriginalDestinations(Protocol):
    """Where captured connections were going (``capture.origdst.FlowTable``)."""

    def take(self, source: SocketAddress, accepted: AcceptedSocket, cookie: int | None = None) -> CapturedFlow | None:
        """The record of the connection from ``source`` in this network namespace (None: the agent's own), once; None
        if it was not captured, or is gone already.
        """


class CapturedLeg(AppLeg):
    """The client's end of a captured connection."""

    __slots__ = ("_outbound", "cgroup")

    def __init__(self, outbound: Outbound, home: Namespace | None) -> None:
        super().__init__(outbound.services.buffers.application, home=home)
        self._outbound = outbound
        self.cgroup = 0
        """The client's enrolled cgroup."""

    def connection_made(self, transport: BaseTransport) -> None:
        """AcceptedSocket."""
        super().connection_made(transport)
        try:
            self._outbound.accepted(self, transport)
        except Exception:  # a defect: this connection is refused, the others go on
            _log.exception("defect while accepting a connection")
            self.abort(Reason.INTERNAL_ERROR)


class OutboundAttempt:
    """A flow on its way to a workload of the mesh; the balancer learns how that endpoint fares."""

    __slots__ = ("_flow", "_outbound", "_uid")

    def __init__(self, outbound: Outbound, flow: Flow, uid: str) -> None:
        self._outbound = outbound
        self._flow = flow
        self._uid = uid
        outbound.reach.balancer.started(uid)
        flow.when_closed(partial(outbound.reach.balancer.ended, uid))

    def reached(self) -> None:
        """The endpoint answers."""
        self._outbound.reach.balancer.succeeded(self._uid)

    def failed(self, reason: Reason, detail: str) -> None:
        """The endpoint does not answer."""
        self._outbound.reach.balancer.failed(self._uid, self._outbound.services.tasks.loop.time())
        self._flow.cut(reason, detail)


class Outbound:
    """Takes captured connections. One per worker."""

    def __init__(
        self, services: Services, captured: OriginalDestinations, enrolled: Mapping[int, str], reach: Reach
    ) -> None:
        self.services = services
        self.reach = reach
        self._captured = captured
        self._enrolled = enrolled
        self._baggage: dict[str, tuple[Workload, dict[str, str]]] = {}
        self.resolver: Callable[[BaseTransport, CapturedFlow, Namespace | None], None] | None = None
        """Takes over connections to resolvers (TCP port 53) that are not services of the mesh; the network namespace
        is the client's."""

    @property
    def pool(self) -> Pool:
        """The tunnels to other nodes."""
        return self.reach.remote.pool

    def leg(self, home: Namespace | None = None) -> CapturedLeg:
        """The protocol of a connection that was accepted in this network namespace (None: the agent's own)."""
        return CapturedLeg(self, home)

    def accepted(self, leg: CapturedLeg, transport: BaseTransport) -> None:
        """Decide about a new connection and set it on its way, or reset it."""
        source, services = remote_address(transport), self.services
        accepted = transport.get_extra_info("socket")
        cookie = leg.home.cookie if leg.home is not None else None
        captured = self._captured.take(source, accepted, cookie) if source is not None else None
        if source is None or captured is None:
            detail = "no record of capture for this connection"
            self._refuse(leg, source, None, Refusal(reason=Reason.NOT_CAPTURED, detail=detail))
            return
        asked_for, leg.cgroup = captured.destination, captured.cgroup_id
        if self.resolver is not None and self._is_question(asked_for):
            leg.transport = None  # it is not a flow: whoever answers for names has it from now on
            self.resolver(transport, captured, leg.home)
            return
        uid = self._enrolled.get(captured.cgroup_id, UNKNOWN_OWNER)
        if services.drains or (crowded := services.tracker.crowded(uid)):
            reason = Reason.AGENT_SHUTDOWN if services.drains else Reason.OVERLOADED
            detail = "no further connection is taken" if services.drains else crowded
            refusal = Refusal(reason=reason, detail=detail, source=services.state.workload(uid))
            self._refuse(leg, source, asked_for, refusal)
            return
        plan = decide.outbound(
            services.state,
            services.node,
            self._enrolled,
            (captured.cgroup_id, source, asked_for),
            lambda endpoints: self.reach.balancer.choose(endpoints, services.tasks.loop.time()),
            services.authorizer,
        )
        if isinstance(plan, Refusal):
            self._refuse(leg, source, asked_for, plan)
        elif isinstance(plan, ExternalPlan):
            self._leave_the_mesh(leg, plan, asked_for)
        elif plan.permit is not None:
            self._stay(leg, plan, asked_for, plan.permit, (captured.socket_cookie, source))
        else:
            self._go_abroad(leg, plan, asked_for, captured.socket_cookie)

    def _is_question(self, asked_for: SocketAddress) -> bool:
        return asked_for.port == DNS_PORT and isinstance(self.services.state.resolve(asked_for), Unresolved)

    def _refuse(
        self, leg: AppLeg, source: SocketAddress | None, asked_for: SocketAddress | None, refusal: Refusal
    ) -> None:
        leg.abort(refusal.reason)
        tracker = self.services.tracker
        record = FlowRecord.begin(
            tracker, Reporter.SOURCE, (refusal.source, source), (refusal.destination, asked_for), refusal.service
        )
        tracker.report(record.refused(refusal.reason, refusal.detail))

    def _begin(self, leg: CapturedLeg, flow: Flow) -> None:
        """From now on the flow is known to policy changes."""
        leg.flow = flow
        flow.source = leg
        self.services.tracker.add(flow)

    def _record(self, plan: OutboundPlan, asked_for: SocketAddress) -> FlowRecord:
        return FlowRecord.begin(
            self.services.tracker, Reporter.SOURCE, (plan.source, plan.source_address), (plan.destination, asked_for),
            plan.service, protocol=plan.protocol,
        )  # fmt: skip

    def _stay(
        self, leg: CapturedLeg, plan: OutboundPlan, asked_for: SocketAddress, permit: Permit,
        captured: tuple[int, SocketAddress],
    ) -> None:  # fmt: skip
        """To a workload of this node: no tunnel, both ends authorized by this agent, reported as both."""
        record = self._record(plan, asked_for)
        flow = Flow(self.services.tracker, record, record.as_destination(plan.address))
        flow.permit(plan.destination, permit)
        attempt = OutboundAttempt(self, flow, plan.destination.uid)
        self._begin(leg, flow)
        address = decide.dial_address(plan.destination, plan.address)
        to = LocalDestination(address=address, client=plan.source_address, workload=plan.destination.uid)
        self.reach.local.start_spliced(flow, leg, to, attempt, captured)

    def _go_abroad(self, leg: CapturedLeg, plan: OutboundPlan, asked_for: SocketAddress, cookie: int) -> None:
        """To a workload of another node, whose agent decides."""
        record = self._record(plan, asked_for)
        trace = os.urandom(24).hex()
        record.security = Security.MUTUAL_TLS
        record.trace_parent = f"00-{trace[:32]}-{trace[32:]}-01"
        flow = Flow(self.services.tracker, record)
        attempt = OutboundAttempt(self, flow, plan.destination.uid)
        self._begin(leg, flow)
        to = RemoteDestination(
            source=plan.source, source_address=plan.source_address, workload=plan.destination, address=plan.address,
            tunnel_addresses=decide.tunnel_addresses(plan.destination, plan.address),
            hostname=plan.service.hostname if plan.service is not None else "",
            baggage=self.baggage_of(plan.source), trace_parent=record.trace_parent,
        )  # fmt: skip
        self.reach.remote.start(flow, leg, to, attempt, cookie)

    def _leave_the_mesh(self, leg: CapturedLeg, plan: ExternalPlan, asked_for: SocketAddress) -> None:
        """To a host outside the mesh; bytes are passed on as they are."""
        record = FlowRecord.begin(
            self.services.tracker, Reporter.SOURCE, (plan.source, plan.source_address), (None, asked_for),
            plan.service, protocol=plan.protocol,
        )  # fmt: skip
        flow = Flow(self.services.tracker, record)
        self._begin(leg, flow)
        self.reach.external.start(flow, leg, ExternalDestination(plan.service, plan.places), UnwatchedAttempt(flow))

    def baggage_of(self, workload: Workload) -> dict[str, str]:
        """What a workload is called in requests to other nodes."""
        held = self._baggage.get(workload.uid)
        if held is None or held[0] is not workload:
            if len(self._baggage) > len(self._enrolled) + 64:
                self._baggage.clear()
            names = {
                "k8s.cluster.name": workload.cluster,
                "k8s.namespace.name": workload.namespace,
                "k8s.pod.name": workload.name,
                "service.name": workload.canonical_service,
                "service.version": workload.canonical_revision,
            }
            held = self._baggage[workload.uid] = (workload, {k: v for k, v in names.items() if v})
        return held[1]
