"""A workload of another node: a stream of a tunnel. That node's agent has the last word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from control.wire.address import SocketAddress
from control.wire.discovery import Workload
from control.wire.ids import SpiffeId
from nodeagent.flows.app import AppLeg
from nodeagent.flows.flow import Flow
from nodeagent.flows.reach.addresses import NodeAddresses
from nodeagent.flows.reach.attempt import Attempt
from nodeagent.flows.services import Services
from nodeagent.flows.streams import StreamLeg
from nodeagent.http2.errors import ErrorCode
from nodeagent.http2.headers import fields_of, headers_of
from nodeagent.http2.hpack.field import Field
from nodeagent.reasons import Reason
from nodeagent.tunnel.codes import IDLE_TIMEOUT, REASON_HEADER, URGENT_DATA
from nodeagent.tunnel.pool import Failed, Pool, Ready, TunnelClient, TunnelTarget
from nodeagent.tunnel.request import ConnectRequest, connect_headers, status_of

MAX_TARGETS: Final = 4096
"""Pairs of workloads for which the parameters of their tunnel are kept."""
_BY_CODE: Final = {reason.code: reason for reason in Reason}
_BY_STATUS: Final = {400: Reason.BAD_TARGET, 401: Reason.POLICY_DENIED, 503: Reason.CONNECT_FAILED}
_BELIEVED: Final = frozenset({
    Reason.POLICY_DENIED, Reason.POLICY_MISSING, Reason.BAD_TARGET, Reason.NOT_READY, Reason.OVERLOADED,
    Reason.CONNECT_REFUSED, Reason.CONNECT_TIMEOUT, Reason.CONNECT_UNREACHABLE, Reason.CONNECT_FAILED,
    Reason.NO_ENDPOINT, Reason.SERVER_BUSY,
})  # fmt: skip
"""Reasons that are taken from a peer: they only go into the log."""


_SILENT: Final = frozenset({
    Reason.CONNECT_REFUSED, Reason.CONNECT_TIMEOUT, Reason.CONNECT_UNREACHABLE, Reason.CONNECT_FAILED,
})  # fmt: skip
"""Of an address where no agent answers; another address of its node may do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteDestination:
    """A workload of another node, and what its agent is told."""

    source: Workload
    source_address: SocketAddress
    workload: Workload
    address: SocketAddress
    """The workload's own address and port."""
    tunnel_addresses: tuple[SocketAddress, ...]
    """Where its node's agent takes tunnels for it, the preferred one first; at least one."""
    hostname: str
    """Of the service that the source asked for; empty: it asked for the workload itself."""
    baggage: Mapping[str, str]
    trace_parent: str


@lru_cache(MAX_TARGETS)
def _target(identity: str, uid: str, expected: str, address: SocketAddress, sni: str) -> TunnelTarget:
    """Made once for many connections."""
    domain = SpiffeId.parse(expected).trust_domain
    return TunnelTarget(identity=identity, uid=uid, expected=expected, address=address, sni=sni, trust_domain=domain)


class RemoteReach:
    """Of one worker."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.addresses = NodeAddresses()
        self.pool = Pool(services.tasks, services.certificates, services.budget, services.buffers)

    def start(self, flow: Flow, source: AppLeg, to: RemoteDestination, attempt: Attempt, cookie: int) -> None:
        """Get a tunnel, now or when there is one. ``cookie`` of the source's captured socket."""
        services, identity = self._services, to.source.identity
        if not services.certificates.usable(identity, datetime.now(UTC)):
            flow.cut(Reason.NO_IDENTITY, f"no valid SVID for {identity}")
            return
        if services.splicing is not None:
            services.splicing.leg(flow, source, cookie)
        _TunnelRequest(self, flow, source, to, attempt).ask()

    def acquire(self, flow: Flow, to: RemoteDestination, address: SocketAddress, ready: Ready, failed: Failed) -> None:
        """A tunnel to this address of the node."""
        workload = to.workload
        target = _target(to.source.identity, workload.uid, workload.identity, address, workload.sni)
        seconds = self._services.tracker.settings.connect_timeout(flow.record.service)
        self.pool.acquire(target, ready, failed, seconds)

    @property
    def now(self) -> float:
        """Of the worker's clock."""
        return self._services.tasks.loop.time()


class _TunnelRequest:
    """One flow that wants a stream."""

    def __init__(self, reach: RemoteReach, flow: Flow, source: AppLeg, to: RemoteDestination, attempt: Attempt) -> None:
        self._reach = reach
        self._untried = reach.addresses.ordered(to.tunnel_addresses, reach.now)
        self._flow = flow
        self._source = source
        self._to = to
        self._attempt = attempt

    def ask(self) -> None:
        """For a tunnel to the node's next address."""
        address = self._untried.pop(0)
        self._flow.record.tunnel_address = address
        self._reach.acquire(self._flow, self._to, address, self.open, self.no_tunnel)

    def no_tunnel(self, reason: Reason, detail: str) -> None:
        """The pool could not make one: try the node's next address if this one does not answer."""
        address = self._flow.record.tunnel_address
        if reason in _SILENT and address is not None:
            self._reach.addresses.failed(address, self._reach.now)
        if self._flow.done:
            return
        if reason in _SILENT and self._untried:
            self.ask()
        else:
            self._attempt.failed(reason, detail)

    def open(self, tunnel: TunnelClient) -> None:
        """Open the stream. Bytes of the source follow at once: the flow is established when the answer comes."""
        flow, to = self._flow, self._to
        self._reach.addresses.answered(tunnel.target.address)
        if flow.done:
            return
        request = ConnectRequest(
            authority=to.address, forwarded_for=to.source_address, forwarded_host=to.hostname, baggage=to.baggage,
            trace_parent=to.trace_parent,
        )  # fmt: skip
        stream = tunnel.connection.open_stream(fields_of(connect_headers(request)))
        leg = StreamLeg(flow, stream, tunnel.flush)
        leg.on_answer = self._answered
        leg.on_reset = lambda code: self._on_reset(tunnel, code)
        flow.destination = leg
        leg.join(self._source)
        self._source.join(leg)

    def _answered(self, fields: list[Field]) -> None:
        headers = headers_of(fields)
        status = status_of(headers)
        if status == 200:
            self._attempt.reached()
            self._flow.establish()
            return
        told = _BY_CODE.get(dict(headers).get(REASON_HEADER, ""))
        reason = told if told is not None and told in _BELIEVED else _BY_STATUS.get(status, Reason.PEER_REFUSED)
        detail = f"the agent of {self._to.workload.node} answered {status}"
        if status == 503:
            self._attempt.failed(reason, detail)
        else:
            self._flow.cut(reason, detail)

    def _on_reset(self, tunnel: TunnelClient, code: int) -> tuple[Reason, str]:
        reason, detail = self._reset_reason(tunnel, code)
        if not self._flow.opened and code != ErrorCode.INADEQUATE_SECURITY:
            self._attempt.failed(reason, detail)
        return reason, detail

    def _reset_reason(self, tunnel: TunnelClient, code: int) -> tuple[Reason, str]:
        node = self._to.workload.node
        if tunnel.failure is not None:
            return tunnel.failure
        if code == ErrorCode.CONNECT_ERROR:
            return Reason.DESTINATION_RESET, ""
        if code == ErrorCode.INADEQUATE_SECURITY:
            return Reason.POLICY_REVOKED, f"by the agent of {node}"
        if code == IDLE_TIMEOUT:
            return Reason.IDLE_TIMEOUT, f"by the agent of {node}"
        if code == URGENT_DATA:
            return Reason.URGENT_DATA, f"by the agent of {node}"
        if code == ErrorCode.REFUSED_STREAM:
            return Reason.OVERLOADED, f"the agent of {node} takes no more streams"
        return Reason.TUNNEL_LOST, f"the agent of {node} reset the stream with code {code}"
