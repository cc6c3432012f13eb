"""Plaintext from outside the mesh, where PeerAuthentication is PERMISSIVE: the kernel gives such connections to the
agent, which applies policy for clients without an identity, and carries them.

The accepted socket's own address is what the client asked for.
"""

from __future__ import annotations

import logging
from asyncio import BaseTransport

from control.wire.address import SocketAddress
from nodeagent.flows.app import AppLeg
from nodeagent.flows.flow import Flow
from nodeagent.flows.reach.attempt import UnwatchedAttempt
from nodeagent.flows.reach.local import LocalDestination
from nodeagent.flows.reach.ways import Reach
from nodeagent.flows.services import Services
from nodeagent.limits.owner import network_of
from nodeagent.namespaces.handle import Namespace
from nodeagent.net.sockets import local_address, remote_address
from nodeagent.reasons import Reason
from nodeagent.relay import decide
from nodeagent.relay.decide import PlaintextPlan, Refusal
from nodeagent.telemetry.flow import FlowRecord, Reporter

_log = logging.getLogger("nodeagent.relay")


class PlaintextLeg(AppLeg):
    """The client's end."""

    __slots__ = ("_plaintext",)

    def __init__(self, plaintext: Plaintext, buffer: memoryview, home: Namespace | None) -> None:
        super().__init__(buffer, home=home)
        self._plaintext = plaintext

    def connection_made(self, transport: BaseTransport) -> None:
        """Accepted."""
        super().connection_made(transport)
        try:
            self._plaintext.accepted(self, transport)
        except Exception:  # a defect: this connection is refused, the others go on
            _log.exception("defect while accepting a plaintext connection")
            self.abort(Reason.INTERNAL_ERROR)


class Plaintext:
    """Takes plaintext connections. One per worker; ``port`` is the listener's own."""

    def __init__(self, services: Services, reach: Reach, port: int) -> None:
        self._services = services
        self._reach = reach
        self._port = port

    def leg(self, home: Namespace | None = None) -> PlaintextLeg:
        """The protocol of a connection that was accepted in this network namespace (None: the agent's own)."""
        return PlaintextLeg(self, self._services.buffers.application, home)

    def accepted(self, leg: PlaintextLeg, transport: BaseTransport) -> None:
        """Decide about a new connection and set it on its way, or reset it."""
        services, client, asked_for = self._services, remote_address(transport), local_address(transport)
        if client is None or asked_for is None:
            leg.abort(Reason.SOURCE_RESET)
        elif asked_for.port == self._port:
            detail = "somebody connected to the port for plaintext itself"
            self._refuse(leg, client, asked_for, Refusal(reason=Reason.NOT_CAPTURED, detail=detail))
        elif services.drains or (crowded := services.tracker.crowded(network_of(client.ip))):
            reason = Reason.AGENT_SHUTDOWN if services.drains else Reason.OVERLOADED
            detail = "no further connection is taken" if services.drains else crowded
            self._refuse(leg, client, asked_for, Refusal(reason=reason, detail=detail))
        else:
            plan = decide.plaintext(services.state, services.node, client, asked_for, services.authorizer)
            if isinstance(plan, Refusal):
                self._refuse(leg, client, asked_for, plan)
            else:
                self._carry(leg, client, plan)

    def _refuse(self, leg: AppLeg, client: SocketAddress, asked_for: SocketAddress, refusal: Refusal) -> None:
        leg.abort(refusal.reason)
        tracker = self._services.tracker
        record = FlowRecord.begin(
            tracker, Reporter.DESTINATION, (None, client), (refusal.destination, asked_for), refusal.service
        )
        tracker.report(record.refused(refusal.reason, refusal.detail))

    def _carry(self, leg: PlaintextLeg, client: SocketAddress, plan: PlaintextPlan) -> None:
        tracker = self._services.tracker
        record = FlowRecord.begin(
            tracker, Reporter.DESTINATION, (None, client), (plan.destination, plan.address), plan.service
        )
        flow = Flow(tracker, record)
        flow.permit(plan.destination, plan.permit)
        leg.flow = flow
        flow.source = leg
        tracker.add(flow)
        # the client asked for an address of the namespace where it was accepted
        to = LocalDestination(address=plan.address, client=client, home=leg.home)
        self._reach.local.start(flow, leg, to, UnwatchedAttempt(flow))
