"""Tunnels from other nodes: answered as the workload that they ask for, their streams decided and carried to it."""

from __future__ import annotations

from typing import Final

from OpenSSL import SSL

from control.wire.address import SocketAddress
from control.wire.discovery import Workload
from control.wire.ids import SpiffeId
from nodeagent.flows.flow import Flow
from nodeagent.flows.reach.local import LocalDestination
from nodeagent.flows.reach.ways import Reach
from nodeagent.flows.services import Services
from nodeagent.flows.streams import StreamLeg
from nodeagent.http2 import frames
from nodeagent.http2.errors import ErrorCode
from nodeagent.http2.headers import fields_of, headers_of
from nodeagent.http2.hpack.field import Field
from nodeagent.http2.limits import LAST_STREAM_ID
from nodeagent.http2.resets import ResetBudget
from nodeagent.http2.stream import Stream
from nodeagent.http2.table import Role
from nodeagent.identity.store import NoIdentityError
from nodeagent.identity.tlsctx import ChoosingContext
from nodeagent.limits.crowd import Crowd
from nodeagent.limits.owner import network_of
from nodeagent.namespaces.handle import Namespace
from nodeagent.net.sockets import has_address
from nodeagent.net.threshold import Arrival, Threshold
from nodeagent.reasons import Reason
from nodeagent.relay import decide
from nodeagent.relay.decide import InboundPlan, Refusal, arrived_address
from nodeagent.telemetry.flow import FlowRecord, Reporter, Security
from nodeagent.tunnel.codes import IDLE_TIMEOUT, REASON_HEADER, URGENT_DATA
from nodeagent.tunnel.end import TunnelEnd
from nodeagent.tunnel.request import BadRequestError, ConnectRequest, Hostname, read_connect
from nodeagent.tunnel.tls import TlsSession

MAX_SERVER_TUNNELS: Final = 8192
"""Authenticated tunnels from other nodes. Of whoever has most, one that carries nothing gives way to a newcomer."""
MAX_RESET_BUDGETS: Final = 1024
"""Peers whose resets are remembered beyond the end of their tunnels."""
_REPORTED: Final = (Reason.OVERLOADED, Reason.PROTOCOL_ERROR)
"""Ends of an authenticated tunnel that are worth a line of their own."""


class Inbound:
    """Takes tunnels. One per worker."""

    def __init__(self, services: Services, reach: Reach) -> None:
        self.services = services
        self.reach = reach
        self.tunnels: set[TunnelServer] = set()
        self.context = ChoosingContext(self._choose)
        self.excess = services.tracker.excess
        self.threshold = Threshold(services.poller, services.tasks, self.excess, self._turned_away)
        self.peers: Crowd[TunnelServer] = Crowd(MAX_SERVER_TUNNELS, self.excess.limits.tunnels_per_peer)
        self._resets: dict[tuple[str, str], ResetBudget] = {}
        self._ticked = services.tasks.loop.time()

    def tunnel(self, home: Namespace | None, arrival: Arrival) -> TunnelServer:
        """The protocol of a connection that was accepted in this network namespace (None: the agent's own)."""
        return TunnelServer(self, home, arrival)

    def admit(self, tunnel: TunnelServer, owner: str, identity: str) -> str:
        """Count an authenticated tunnel against its peer; why it is one too many, empty if it is not."""
        peers = self.peers
        if peers.full or peers.used_up(owner):
            idle = peers.gives_way(owner, lambda other: not other.connection.streams)
            limit = "tunnels_per_peer"
            if idle is None:
                return self.excess.refused(limit, owner)
            idle.give_way(self.excess.refused(limit, owner if peers.used_up(owner) else peers.heaviest))
        peers.enter(tunnel, owner)
        budget = self._resets.get((owner, identity))
        if budget is None:
            budget = self._resets[owner, identity] = ResetBudget()
        tunnel.connection.table.resets = budget
        return ""

    def _turned_away(self, remote: SocketAddress | None, local: SocketAddress | None, reason: Reason, why: str) -> None:
        """A connection ended before it was a tunnel."""
        tracker = self.services.tracker
        record = FlowRecord.begin(tracker, Reporter.DESTINATION, (None, remote), (None, local))
        record.tunnel_address = local
        tracker.report(record.refused(reason, f"tunnel refused: {why}"))

    def _refill(self, now: float) -> None:
        passed, self._ticked = now - self._ticked, now
        for budget in self._resets.values():
            budget.refill(passed)
        if len(self._resets) > MAX_RESET_BUDGETS:
            used = {id(tunnel.connection.table.resets) for tunnel in self.tunnels}
            self._resets = {k: held for k, held in self._resets.items() if not held.whole or id(held) in used}

    def _choose(self, tls: SSL.Connection, name: str | None) -> SSL.Context | None:
        tunnel: TunnelServer = tls.get_app_data()  # set in TunnelServer.make_tls
        workload = self._asked_for(tunnel, name)
        if workload is None:
            return None
        try:
            context = self.services.certificates.server_context(workload.identity)
        except NoIdentityError as error:
            tunnel.failure = (Reason.NO_IDENTITY, str(error))
            return None
        tunnel.identity = workload.identity
        tunnel.generation = self.services.certificates.generation(workload.identity)
        tunnel.workload = workload if name is not None else None
        return context

    def _asked_for(self, tunnel: TunnelServer, name: str | None) -> Workload | None:
        """The workload to answer as: by server name; without one, by the local address if that names one identity."""
        state, node = self.services.state, self.services.node
        if name is not None:
            workload = state.by_sni(name)
            if workload is None or workload.node != node:
                tunnel.failure = (Reason.BAD_TARGET, f"server name {name[:253]!r} is no workload of this node")
                return None
            return workload
        ip = tunnel.local.ip if tunnel.local is not None else ""
        here = [w for w in state.owners(ip) if w.node == node and self._lives(tunnel, w)]
        if len({w.identity for w in here}) == 1:
            return here[0]
        what = "several identities share" if here else "no workload of this node has"
        tunnel.failure = (Reason.BAD_TARGET, f"the peer sent no server name, and {what} the address {ip}")
        return None

    def _lives(self, tunnel: TunnelServer, workload: Workload) -> bool:
        homes = self.services.homes
        return tunnel.home is None or (homes is not None and homes.here(tunnel.home, workload.uid))

    def tick(self, now: float) -> None:
        """See ``TunnelEnd.tick``."""
        for tunnel in tuple(self.tunnels):
            tunnel.tick(now)
        self.threshold.tick(now)
        self._refill(now)

    def drain(self) -> None:
        """Take no more streams; the tunnels close when their last one is over."""
        for tunnel in tuple(self.tunnels):
            tunnel.drain()

    def refresh(self) -> None:
        """SVIDs, bundles or placements changed: tunnels answered with former ones take no more streams."""
        for tunnel in tuple(self.tunnels):
            if tunnel.identity and tunnel.generation != self.services.certificates.generation(tunnel.identity):
                tunnel.drain()


class InboundAttempt:
    """A stream on its way to a workload of this node; the other node waits for the answer."""

    __slots__ = ("_flow", "_leg", "_tunnel")

    def __init__(self, tunnel: TunnelServer, flow: Flow, leg: StreamLeg) -> None:
        self._tunnel = tunnel
        self._flow = flow
        self._leg = leg

    def reached(self) -> None:
        """Say so: the stream is open."""
        self._tunnel.connection.respond(self._leg.stream, fields_of([(":status", "200")]))

    def failed(self, reason: Reason, detail: str) -> None:
        """Say that the workload does not answer."""
        if not self._flow.done:
            headers = [(":status", "503"), (REASON_HEADER, reason.code)]
            self._tunnel.connection.respond(self._leg.stream, fields_of(headers), end=True)
            self._flow.lost(self._leg, reason, detail)


class TunnelServer(TunnelEnd):
    """The side that answers streams."""

    def __init__(self, inbound: Inbound, home: Namespace | None, arrival: Arrival) -> None:
        services = inbound.services
        super().__init__(services.tasks.loop, Role.SERVER, "", services.budget, services.buffers)
        self._inbound = inbound
        self._services = services
        self._arrival = arrival
        self.identity = ""
        """As whom we answered."""
        self.generation = 0
        self.home = home
        """The network namespace of a workload, which a peer that knows nothing of nodes connected to."""
        self.workload: Workload | None = None
        """The workload that the server name asked for; None if the peer sent none."""
        self._pongs_left = 0
        """Answers to pings until every stream that the peer opened before it read our GOAWAY has arrived."""

    def make_tls(self) -> TlsSession:
        """As whom is decided when the peer's server name is known."""
        if self._services.drains:
            self.failure = (Reason.AGENT_SHUTDOWN, "no further tunnel is taken")
            raise NoIdentityError(self.failure[1])
        self._inbound.tunnels.add(self)
        connection = self._inbound.context.connection()
        connection.set_app_data(self)
        return TlsSession(connection, server_side=True, buffers=self.buffers.tls)

    def before_authentication(self) -> None:
        """The bundle is that of the trust domain which we answered in."""
        self.trust_domain = SpiffeId.parse(self.identity).trust_domain

    def authenticated(self) -> None:
        """If the SVID or the bundle was replaced during the handshake, the peer is to come again."""
        self._arrival.over()
        if self.remote is not None and self.peer is not None:
            crowded = self._inbound.admit(self, network_of(self.remote.ip), str(self.peer.spiffe_id))
            if crowded:
                self.fail(Reason.OVERLOADED, crowded)
                return
        if self.generation != self._services.certificates.generation(self.identity):
            self.drain()

    def drain(self) -> None:
        """Take no more streams but those on their way: the first GOAWAY refuses none, and the ping that follows it
        comes back
        after the last of them (RFC 9113, section 6.8). Close when the last one is over."""
        if self.peer is None or self.closed or self._pongs_left or self.connection.table.went_away:
            return
        self.connection.output.put(frames.goaway(LAST_STREAM_ID, ErrorCode.NO_ERROR))
        self._pongs_left = self.ping()

    def pong(self) -> None:
        """The peer lives; while draining, it has read our GOAWAY."""
        super().pong()
        if self._pongs_left:
            self._pongs_left -= 1
            if not self._pongs_left:
                super().drain()

    def give_way(self, why: str) -> None:
        """Another's turn has come."""
        self.fail(Reason.OVERLOADED, why)

    def abused(self) -> None:
        """Counted against the identity that the peer proved."""
        peer = str(self.peer.spiffe_id) if self.peer is not None else "unknown"
        self._inbound.excess.abused("tunnel_protocol", peer, f"{peer} ({self.remote}) was told to calm down")

    def lost(self) -> None:
        """Gone. A handshake that failed and a peer that asks too much are reported; a tunnel's end is not a
        connection's.
        """
        inbound = self._inbound
        inbound.tunnels.discard(self)
        inbound.peers.leave(self)
        self._arrival.over()
        if self.failure is not None and (self.peer is None or self.failure[0] in _REPORTED):
            what = "refused" if self.peer is None else "ended"
            self._report(None, Refusal(reason=self.failure[0], detail=f"tunnel {what}: {self.failure[1]}"))

    def request_refused(self, why: str) -> None:
        """Report it as any other refusal."""
        self._report(None, Refusal(reason=Reason.BAD_TARGET, detail=f"refused with 431: {why}", status=431))

    def stream_opened(self, stream: Stream, fields: list[Field], *, ended: bool) -> None:
        """Decide about a request and set it on its way, or refuse it."""
        try:
            request = read_connect(headers_of(fields))
        except BadRequestError as error:
            self._refuse(stream, None, Refusal(reason=Reason.BAD_TARGET, detail=str(error), status=400))
            return
        services = self._services
        if self.peer is None or self.remote is None:  # cannot be: nothing is read before the handshake is done
            self._refuse(stream, request, Refusal(reason=Reason.INTERNAL_ERROR, detail="no identity was proved"))
            return
        if crowded := services.tracker.crowded(str(self.peer.spiffe_id)):
            self._refuse(stream, request, Refusal(reason=Reason.OVERLOADED, detail=crowded))
            return
        peer = (self.peer.spiffe_id, self.remote)
        plan = decide.inbound(services.state, services.node, peer, self.workload, request, services.authorizer)
        if isinstance(plan, InboundPlan) and plan.destination.identity != self.identity:
            detail = f"the tunnel was answered as {self.identity}, {plan.destination.uid} is another"
            plan = Refusal(reason=Reason.BAD_TARGET, detail=detail, status=400, destination=plan.destination)
        if isinstance(plan, Refusal):
            self._refuse(stream, request, plan)
        else:
            self._carry(stream, request, plan, ended)

    def _refuse(self, stream: Stream, request: ConnectRequest | None, refusal: Refusal) -> None:
        headers = [(":status", str(refusal.status)), (REASON_HEADER, refusal.reason.code)]
        self.connection.respond(stream, fields_of(headers), end=True)
        self._report(request, refusal)

    def _report(self, request: ConnectRequest | None, refusal: Refusal) -> None:
        tracker = self._services.tracker
        asked_for = request.authority if request and not isinstance(request.authority, Hostname) else self.local
        principal = str(self.peer.spiffe_id) if self.peer is not None else None
        destination = refusal.destination or self.workload
        record = FlowRecord.begin(
            tracker, Reporter.DESTINATION, (refusal.source, self.remote), (destination, asked_for), refusal.service,
            principal=principal, security=Security.MUTUAL_TLS if principal else Security.NONE,
        )  # fmt: skip
        record.tunnel_address, record.trace_parent = self.local, request.trace_parent if request else ""
        tracker.report(record.refused(refusal.reason, refusal.detail))

    def _carry(self, stream: Stream, request: ConnectRequest, plan: InboundPlan, ended: bool) -> None:
        tracker = self._services.tracker
        record = FlowRecord.begin(
            tracker, Reporter.DESTINATION, (plan.source, plan.source_address), (plan.destination, plan.address),
            plan.service, principal=str(plan.connection.source_identity), security=Security.MUTUAL_TLS,
        )  # fmt: skip
        record.tunnel_address, record.trace_parent = self.local, request.trace_parent
        record.claimed_address = plan.claimed_address
        flow = Flow(tracker, record)
        flow.permit(plan.destination, plan.permit)
        leg = StreamLeg(flow, stream, self.flush)
        leg.ended = ended
        leg.on_reset = self._reset_reason
        flow.source = leg
        tracker.add(flow)
        to = LocalDestination(
            address=arrived_address(plan.destination, plan.address, self.local, _has), client=plan.source_address,
            workload=plan.destination.uid, joins_leg=True,
        )  # fmt: skip
        self._inbound.reach.local.start(flow, leg, to, InboundAttempt(self, flow, leg))

    def _reset_reason(self, code: int) -> tuple[Reason, str]:
        if self.failure is not None:
            return Reason.TUNNEL_LOST, self.failure[1]
        if code == IDLE_TIMEOUT:
            return Reason.IDLE_TIMEOUT, "by the agent of the source"
        if code == URGENT_DATA:
            return Reason.URGENT_DATA, "by the agent of the source"
        return Reason.SOURCE_RESET, ""


def _has(ip: str) -> bool:
    try:
        return has_address(None, ip)
    except OSError:  # the dial says why
        return True
