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
from nodeagent.namespaces.handle import Namespace
from nodeagent.net.dialling import connect_reason, dial_app
from nodeagent.net.sockets import local_address, remote_address
from nodeagent.reasons import Reason
from nodeagent.relay import decide
from nodeagent.relay.decide import PlaintextPlan, Refusal
from nodeagent.relay.services import Services
from nodeagent.telemetry.flow import FlowRecord, Reporter, Security

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

    def __init__(self, services: Services, port: int) -> None:
        self._services = services
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
        elif services.tracker.full or services.drains:
            reason = Reason.AGENT_SHUTDOWN if services.drains else Reason.OVERLOADED
            self._refuse(leg, client, asked_for, Refusal(reason=reason, detail="no further connection is taken"))
        else:
            plan = decide.plaintext(services.state, services.node, client, asked_for, services.authorizer)
            if isinstance(plan, Refusal):
                self._refuse(leg, client, asked_for, plan)
            else:
                self._carry(leg, client, plan)

    def _refuse(self, leg: AppLeg, client: SocketAddress, asked_for: SocketAddress, refusal: Refusal) -> None:
        leg.abort(refusal.reason)
        tracker = self._services.tracker
        tracker.report(
            FlowRecord(
                flow_id=tracker.next_id(), reporter=Reporter.DESTINATION, started=tracker.now(), source_address=client,
                destination_address=asked_for, destination=refusal.destination, service=refusal.service,
                destination_principal=refusal.destination.identity if refusal.destination else None,
                security=Security.NONE, reason=refusal.reason, detail=refusal.detail,
            )
        )  # fmt: skip

    def _carry(self, leg: PlaintextLeg, client: SocketAddress, plan: PlaintextPlan) -> None:
        services = self._services
        record = FlowRecord(
            flow_id=services.tracker.next_id(), reporter=Reporter.DESTINATION, started=services.tracker.now(),
            source_address=client, destination_address=plan.address, destination=plan.destination,
            destination_principal=plan.destination.identity, service=plan.service, security=Security.NONE,
        )  # fmt: skip
        flow = Flow(services.tracker, record)
        flow.permit = plan.permit
        leg.flow = flow
        flow.source = leg
        services.tracker.add(flow)
        services.tasks.start(self._dial(flow, leg, client, plan.address), "dial")

    async def _dial(self, flow: Flow, source: PlaintextLeg, client: SocketAddress, address: SocketAddress) -> None:
        services = self._services
        try:
            home = source.home  # it asked for an address of that namespace
            leg = await dial_app(
                services.poller, lambda: AppLeg(services.buffers.application, flow, dialled=True, home=home), address,
                services.speaking_for(client), inside=home,
            )  # fmt: skip
        except OSError as error:
            flow.cut(connect_reason(error), f"{address}: {error or 'no answer'}")
            return
        if flow.done:  # while the dial was being answered
            leg.abort(flow.record.reason)
            return
        flow.destination = leg
        flow.establish()
        source.join(leg)
        if not flow.done:
            leg.join(source)
