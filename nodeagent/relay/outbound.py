"""Captured connections: accepted, decided, and carried to a workload of this node or into a tunnel."""

from __future__ import annotations

import logging
import os
from asyncio import BaseTransport
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Final, Protocol

from control.wire.address import SocketAddress
from control.wire.discovery import Workload
from control.wire.ids import SpiffeId
from nodeagent.flows.app import AppLeg
from nodeagent.flows.balance import Balancer
from nodeagent.flows.flow import Flow
from nodeagent.flows.splicing import FlowSplice, Splicing
from nodeagent.flows.streams import StreamLeg
from nodeagent.http2.errors import ErrorCode
from nodeagent.http2.stream import Headers
from nodeagent.namespaces.handle import Namespace
from nodeagent.net.dialling import connect_reason, dial_app
from nodeagent.net.sockets import local_address, remote_address, small_buffers
from nodeagent.policy.evaluate import Permit
from nodeagent.reasons import Reason
from nodeagent.relay import decide
from nodeagent.relay.decide import ExternalPlan, OutboundPlan, Refusal
from nodeagent.relay.external import ExternalFlow, WaysOut
from nodeagent.state.targets import Unresolved
from nodeagent.telemetry.flow import FlowRecord, Reporter, Security
from nodeagent.tunnel.codes import IDLE_TIMEOUT, REASON_HEADER
from nodeagent.tunnel.pool import Pool, TunnelClient, TunnelTarget
from nodeagent.tunnel.request import ConnectRequest, connect_headers, status_of

if TYPE_CHECKING:
    from nodeagent.capture.origdst import Accepted, CapturedFlow
    from nodeagent.relay.services import Services

DNS_PORT: Final = 53
MAX_TARGETS: Final = 4096
"""Pairs of workloads of which it is kept how a tunnel from one to the other is made."""
_log = logging.getLogger("nodeagent.relay")
_BY_CODE: Final = {reason.code: reason for reason in Reason}
_BY_STATUS: Final = {400: Reason.BAD_TARGET, 401: Reason.POLICY_DENIED, 503: Reason.CONNECT_FAILED}
_RELAYED: Final = frozenset({
    Reason.POLICY_DENIED, Reason.POLICY_MISSING, Reason.BAD_TARGET, Reason.NOT_READY, Reason.OVERLOADED,
    Reason.CONNECT_REFUSED, Reason.CONNECT_TIMEOUT, Reason.CONNECT_UNREACHABLE, Reason.CONNECT_FAILED,
    Reason.NO_ENDPOINT,
})  # fmt: skip
"""Reasons that a peer's word is taken for: they only go into the log."""


class OriginalDestinations(Protocol):
    """Where captured connections were going (``capture.origdst.FlowTable``)."""

    def take(self, source: SocketAddress, accepted: Accepted, cookie: int | None = None) -> CapturedFlow | None:
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
        """Accepted."""
        super().connection_made(transport)
        try:
            self._outbound.accepted(self, transport)
        except Exception:  # a defect: this connection is refused, the others go on
            _log.exception("defect while accepting a connection")
            self.abort(Reason.INTERNAL_ERROR)


class Outbound:
    """Takes captured connections. One per worker."""

    def __init__(
        self, services: Services, captured: OriginalDestinations, enrolled: Mapping[int, str], balancer: Balancer
    ) -> None:
        self.services = services
        self.balancer = balancer
        self._captured = captured
        self._enrolled = enrolled
        self._pool = Pool(services.tasks, services.certificates, services.budget, services.buffers)
        self._baggage: dict[str, tuple[Workload, dict[str, str]]] = {}
        self.resolver: Callable[[BaseTransport, CapturedFlow, Namespace | None], None] | None = None
        """Takes over connections to resolvers (TCP port 53) that are not services of the mesh; the network namespace
        is the client's."""
        self.ways_out = WaysOut(balancer)

    @property
    def pool(self) -> Pool:
        """The tunnels to other nodes."""
        return self._pool

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
        if services.tracker.full or services.drains:
            reason = Reason.AGENT_SHUTDOWN if services.drains else Reason.OVERLOADED
            self._refuse(leg, source, asked_for, Refusal(reason=reason, detail="no further connection is taken"))
            return
        plan = decide.outbound(
            services.state,
            services.node,
            self._enrolled,
            (captured.cgroup_id, source, asked_for),
            lambda endpoints: self.balancer.choose(endpoints, services.tasks.loop.time()),
            services.authorizer,
        )
        if isinstance(plan, Refusal):
            self._refuse(leg, source, asked_for, plan)
        elif isinstance(plan, ExternalPlan):
            ExternalFlow(services, self.ways_out, leg, plan, asked_for).start()
        elif plan.permit is not None:
            LocalFlow(self, leg, plan, asked_for).start(plan.permit, captured.socket_cookie, source)
        else:
            RemoteFlow(self, leg, plan, asked_for).start(captured.socket_cookie)

    def _is_question(self, asked_for: SocketAddress) -> bool:
        return asked_for.port == DNS_PORT and isinstance(self.services.state.resolve(asked_for), Unresolved)

    def _refuse(
        self, leg: AppLeg, source: SocketAddress | None, asked_for: SocketAddress | None, refusal: Refusal
    ) -> None:
        leg.abort(refusal.reason)
        tracker = self.services.tracker
        tracker.report(
            FlowRecord(
                flow_id=tracker.next_id(), reporter=Reporter.SOURCE, started=tracker.now(), source_address=source,
                source=refusal.source, destination_address=asked_for, destination=refusal.destination,
                source_principal=refusal.source.identity if refusal.source else None,
                destination_principal=refusal.destination.identity if refusal.destination else None,
                service=refusal.service, reason=refusal.reason, detail=refusal.detail,
            )
        )  # fmt: skip

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


class _OutboundFlow:
    """What the two kinds of outbound flow share."""

    def __init__(self, outbound: Outbound, leg: CapturedLeg, plan: OutboundPlan, asked_for: SocketAddress) -> None:
        self.outbound = outbound
        self.leg = leg
        self.plan = plan
        self.services = outbound.services
        tracker = self.services.tracker
        self.record = FlowRecord(
            flow_id=tracker.next_id(), reporter=Reporter.SOURCE, started=tracker.now(),
            source_address=plan.source_address, source_principal=plan.source.identity, source=plan.source,
            destination_address=asked_for, service=plan.service, destination=plan.destination,
            destination_principal=plan.destination.identity, protocol=plan.protocol,
        )  # fmt: skip

    def track(self, flow: Flow) -> None:
        """From now on the flow is known to policy changes, and its endpoint is in use."""
        self.leg.flow = flow
        flow.source = self.leg
        uid = self.plan.destination.uid
        flow.on_close = lambda: self.outbound.balancer.ended(uid)
        self.outbound.balancer.started(uid)
        self.services.tracker.add(flow)

    def connect_failed(self, flow: Flow, reason: Reason, detail: str) -> None:
        """The destination could not be connected to."""
        self.outbound.balancer.failed(self.plan.destination.uid, self.services.tasks.loop.time())
        flow.cut(reason, detail)


class LocalFlow(_OutboundFlow):
    """To a workload of this node: no tunnel, both ends authorized by this agent, reported as both."""

    _splice: FlowSplice | None = None

    def start(self, permit: Permit, cookie: int, client: SocketAddress) -> None:
        """Dial what the permit allows, for the captured socket ``cookie`` that is connected from ``client``."""
        plan, record = self.plan, self.record
        second = FlowRecord(
            flow_id=record.flow_id, reporter=Reporter.DESTINATION, started=record.started,
            source_address=plan.source_address, source_principal=plan.source.identity, source=plan.source,
            destination_address=plan.address, service=plan.service, destination=plan.destination,
            destination_principal=plan.destination.identity, protocol=plan.protocol,
        )  # fmt: skip
        flow = Flow(self.services.tracker, record, second)
        flow.permit = permit
        self.track(flow)
        self._begin_splice(flow, cookie, client)
        self.services.tasks.start(self._dial(flow), "dial")

    def _begin_splice(self, flow: Flow, cookie: int, client: SocketAddress) -> None:
        splicing, transport = self.services.splicing, self.leg.transport
        listener = local_address(transport) if transport is not None else None
        if splicing is None or transport is None or listener is None or flow.done:
            return
        address = decide.dial_address(self.plan.destination, self.plan.address)
        try:
            homes = (self.leg.home, self.services.home_of(self.plan.destination.uid, address))
        except OSError:  # dialling says why
            return
        splice = self._splice = splicing.begin(flow, cookie, (client, listener), homes)
        if splice is None:
            return
        small_buffers(transport.get_extra_info("socket"))
        flow.spliced = splice
        flow.on_close = lambda: self._ended(splicing, splice)

    def _ended(self, splicing: Splicing, splice: FlowSplice) -> None:
        self.outbound.balancer.ended(self.plan.destination.uid)
        splicing.end(splice)

    def _before_dial(self) -> Callable[[int], None] | None:
        announce, splice = self.services.speaking_for(self.plan.source_address), self._splice
        if announce is None or splice is None:
            return announce if splice is None else splice.dialling

        def both(descriptor: int) -> None:
            announce(descriptor)
            splice.dialling(descriptor)

        return both

    async def _dial(self, flow: Flow) -> None:
        address, splice = decide.dial_address(self.plan.destination, self.plan.address), self._splice
        try:
            home = self.services.home_of(self.plan.destination.uid, address)
            make_leg = partial(AppLeg, self.services.buffers.application, flow, dialled=True, home=home)
            leg = await dial_app(
                self.services.poller, make_leg, address, self._before_dial(), spliced=splice is not None, inside=home
            )
        except OSError as error:
            self.connect_failed(flow, connect_reason(error), f"{address}: {error or 'no answer'}")
            return
        if home is not None and home.closed:
            flow.cut(Reason.NAMESPACE_GONE, f"network namespace {home.inode} has no enrolled process any more")
        if flow.done:  # while the dial was being answered
            leg.abort(flow.record.reason)
            return
        self.outbound.balancer.succeeded(self.plan.destination.uid)
        flow.destination = leg
        flow.establish()
        if splice is not None:
            self.leg.after_chunk = leg.after_chunk = splice.offer
            splice.offer()
        self.leg.join(leg)
        leg.join(self.leg)


@lru_cache(MAX_TARGETS)
def _target(identity: str, uid: str, expected: str, address: SocketAddress, sni: str) -> TunnelTarget:
    """Made once for many connections."""
    domain = SpiffeId.parse(expected).trust_domain
    return TunnelTarget(identity=identity, uid=uid, expected=expected, address=address, sni=sni, trust_domain=domain)


class RemoteFlow(_OutboundFlow):
    """To a workload of another node: a stream of a tunnel; that node's agent has the last word."""

    def start(self, cookie: int) -> None:
        """Get a tunnel, now or when there is one, for the captured socket ``cookie``."""
        plan, services = self.plan, self.services
        self.record.security = Security.MUTUAL_TLS
        trace = os.urandom(24).hex()
        self.record.trace_parent = f"00-{trace[:32]}-{trace[32:]}-01"
        self.record.tunnel_address = decide.tunnel_address(plan.destination, plan.address)
        self.flow = Flow(services.tracker, self.record)
        self.track(self.flow)
        if not services.certificates.usable(plan.source.identity, datetime.now(UTC)):
            self.flow.cut(Reason.NO_IDENTITY, f"no valid SVID for {plan.source.identity}")
            return
        to = plan.destination
        target = _target(plan.source.identity, to.uid, to.identity, self.record.tunnel_address, to.sni)
        if services.splicing is not None:
            services.splicing.leg(self.flow, self.leg, cookie)
        self.outbound.pool.acquire(target, self._open, self._no_tunnel)

    def _no_tunnel(self, reason: Reason, detail: str) -> None:
        if not self.flow.done:
            self.connect_failed(self.flow, reason, detail)

    def _open(self, tunnel: TunnelClient) -> None:
        if self.flow.done:
            return
        request = ConnectRequest(
            authority=self.plan.address,
            forwarded_for=self.plan.source_address,
            forwarded_host=self.plan.service.hostname if self.plan.service is not None else "",
            baggage=self.outbound.baggage_of(self.plan.source),
            trace_parent=self.record.trace_parent,
        )
        stream = tunnel.connection.open_stream(connect_headers(request))
        leg = StreamLeg(self.flow, stream, tunnel.flush)
        leg.on_answer = self._answered
        leg.on_reset = lambda code: self._on_reset(tunnel, code)
        self.flow.destination = leg
        leg.join(self.leg)
        self.leg.join(leg)

    def _answered(self, headers: Headers) -> None:
        status = status_of(headers)
        if status == 200:
            self.outbound.balancer.succeeded(self.plan.destination.uid)
            self.flow.establish()
            return
        told = _BY_CODE.get(dict(headers).get(REASON_HEADER, ""))
        reason = told if told is not None and told in _RELAYED else _BY_STATUS.get(status, Reason.PEER_REFUSED)
        detail = f"the agent of {self.plan.destination.node} answered {status}"
        if status == 503:
            self.connect_failed(self.flow, reason, detail)
        else:
            self.flow.cut(reason, detail)

    def _on_reset(self, tunnel: TunnelClient, code: int) -> tuple[Reason, str]:
        if not self.flow.opened and code != ErrorCode.INADEQUATE_SECURITY:
            self.outbound.balancer.failed(self.plan.destination.uid, self.services.tasks.loop.time())
        if tunnel.failure is not None:
            return tunnel.failure
        if code == ErrorCode.CONNECT_ERROR:
            return Reason.DESTINATION_RESET, ""
        if code == ErrorCode.INADEQUATE_SECURITY:
            return Reason.POLICY_REVOKED, f"by the agent of {self.plan.destination.node}"
        if code == IDLE_TIMEOUT:
            return Reason.IDLE_TIMEOUT, f"by the agent of {self.plan.destination.node}"
        if code == ErrorCode.REFUSED_STREAM:
            return Reason.OVERLOADED, f"the agent of {self.plan.destination.node} takes no more streams"
        return Reason.TUNNEL_LOST, f"the agent of {self.plan.destination.node} reset the stream with code {code}"
