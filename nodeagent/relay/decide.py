"""What becomes of a connection: pure decisions over the node's state, each a plan or a refusal with its reason.

``outbound`` is asked for a captured connection, ``inbound`` for a stream that another node's agent opened,
``plaintext`` for a connection from outside the mesh that the kernel gave to the agent. The agent of the destination has
the last word, so only it (and the one agent of a same-node connection) evaluates policy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from control.wire.address import SocketAddress
from control.wire.discovery import AppProtocol, Service, Workload
from control.wire.ids import SpiffeId
from nodeagent.policy.authorizer import Authorizer
from nodeagent.policy.connection import Connection
from nodeagent.policy.evaluate import Denial, Permit
from nodeagent.reasons import Reason
from nodeagent.state.targets import ExternalTarget, Place, ServiceTarget, Unresolved
from nodeagent.state.view import NodeState
from nodeagent.tunnel.request import ConnectRequest, Hostname

_NAMES_OF_OTHERS = frozenset({"k8s.namespace.name", "k8s.cluster.name"})
Chooser = Callable[[Sequence[Workload]], Workload | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """No, and why. ``status`` is the answer to a peer's request; what is known of the parties goes into the record."""

    reason: Reason
    detail: str
    status: int = 503
    source: Workload | None = None
    destination: Workload | None = None
    service: Service | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundPlan:
    """A captured connection goes to ``destination``; ``permit`` is there if that is on this node."""

    source: Workload
    source_address: SocketAddress
    destination: Workload
    address: SocketAddress
    """The workload's own address and (target) port."""
    service: Service | None
    protocol: AppProtocol
    permit: Permit | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalPlan:
    """A captured connection leaves the mesh, for something that its registry names: that is what permits it. No policy
    selects what is outside, and nobody proves an identity there; bytes are passed on as they are.
    """

    source: Workload
    source_address: SocketAddress
    service: Service
    protocol: AppProtocol
    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundPlan:
    """A peer's stream goes to a workload of this node."""

    permit: Permit
    connection: Connection
    destination: Workload
    address: SocketAddress
    service: Service | None
    source: Workload | None
    source_address: SocketAddress
    """What is believed: the address that the peer claims, if the registry gives it to a workload of the proved
    identity; else the tunnel's."""
    claimed_address: SocketAddress | None
    """A claim that is not believed; for the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaintextPlan:
    """Plaintext from outside the mesh goes to a workload of this node."""

    permit: Permit
    destination: Workload
    address: SocketAddress
    """What the client asked for, and where the agent connects: it makes nothing reachable that was not."""
    service: Service | None


def dial_address(workload: Workload, address: SocketAddress) -> SocketAddress:
    """Where the agent connects to a workload of its own node."""
    return SocketAddress(workload.app_address or address.ip, address.port)


def arrived_address(
    workload: Workload, address: SocketAddress, arrived_at: SocketAddress | None, has: Callable[[str], bool]
) -> SocketAddress:
    """As ``dial_address``, for a tunnel that arrived at this address of the node. A workload that is known by its
    node's addresses is dialled there if the node does not have the one that the peer named: it answers at any of them.
    """
    named = dial_address(workload, address)
    if arrived_at is None or arrived_at.ip == named.ip or workload.app_address or workload.tunnel_addresses:
        return named
    if arrived_at.ip not in workload.addresses or has(named.ip):
        return named
    return SocketAddress(arrived_at.ip, named.port)


def tunnel_addresses(workload: Workload, address: SocketAddress) -> tuple[SocketAddress, ...]:
    """Where the agent of the workload's node takes tunnels for it, those of the family of ``address`` first. A workload
    without addresses of its own has the node's: then ``address`` comes first of all.
    """
    known = workload.tunnel_addresses or dict.fromkeys((address.ip, *workload.addresses))
    found = sorted(known, key=lambda ip: (":" in ip) != (":" in address.ip))
    return tuple(SocketAddress(ip, workload.tunnel_port) for ip in found)


def policy_connection(identity: str, source: SocketAddress, address: SocketAddress) -> Connection:
    """What policy looks at; all of it proved or registered, nothing merely claimed."""
    return Connection(
        source_identity=SpiffeId.parse(identity),
        source_ip=source.ip,
        destination_ip=address.ip,
        destination_port=address.port,
    )


def outbound(
    state: NodeState,
    node: str,
    enrolled: Mapping[int, str],
    captured: tuple[int, SocketAddress, SocketAddress],
    choose: Chooser,
    authorizer: Authorizer,
) -> OutboundPlan | ExternalPlan | Refusal:
    """Decide for a captured connection: (cgroup id, address that it comes from, address that it asked for)."""
    cgroup_id, origin, asked_for = captured
    if not state.ready:
        return Refusal(reason=Reason.NOT_READY, detail="the agent has no state from control yet")
    source = state.workload(enrolled.get(cgroup_id, ""))
    if source is None or source.node != node:
        return Refusal(reason=Reason.UNKNOWN_SOURCE, detail=f"cgroup {cgroup_id} belongs to no workload of this node")
    target = _outbound_target(state, source, asked_for, choose)
    if isinstance(target, ExternalTarget):
        return _external(source, registered_address(source, origin, asked_for), target)
    if isinstance(target, Refusal):
        return target
    destination, address, service, protocol = target
    origin = registered_address(source, origin, address)
    permit = None
    if destination.node == node:
        verdict = authorizer.authorize(destination, policy_connection(source.identity, origin, address))
        if isinstance(verdict, Denial):
            return Refusal(
                reason=verdict.reason, detail=verdict.detail, source=source, destination=destination, service=service
            )
        permit = verdict
    return OutboundPlan(
        source=source, source_address=origin, destination=destination, address=address, service=service,
        protocol=protocol, permit=permit,
    )  # fmt: skip


def _outbound_target(
    state: NodeState, source: Workload, asked_for: SocketAddress, choose: Chooser
) -> tuple[Workload, SocketAddress, Service | None, AppProtocol] | ExternalTarget | Refusal:
    target = state.resolve(asked_for)
    if isinstance(target, ExternalTarget):
        return target
    if isinstance(target, Unresolved):
        return Refusal(reason=target.reason, detail=target.detail, source=source)
    service, protocol = None, AppProtocol.TCP
    if isinstance(target, ServiceTarget):
        service, protocol = target.service, target.port.protocol
        chosen = choose(target.endpoints)
        if chosen is None:
            detail = f"service {service.uid} has no endpoint ({target.missing} not known to this node)"
            return Refusal(reason=Reason.NO_ENDPOINT, detail=detail, source=source, service=service)
        destination, port = chosen, target.port.target_port
    else:
        destination, port = target.workload, target.port
        service = state.service_before(destination, port)
    address = _address_of(destination, asked_for, port)
    if address is None:
        detail = f"workload {destination.uid} has no address"
        return Refusal(reason=Reason.NO_ENDPOINT, detail=detail, source=source, service=service)
    return destination, address, service, protocol


def _external(source: Workload, origin: SocketAddress, target: ExternalTarget) -> ExternalPlan | Refusal:
    places = target.places
    if not places:
        detail = f"{target.service.hostname} has no endpoint"
        return Refusal(reason=Reason.NO_ENDPOINT, detail=detail, source=source, service=target.service)
    return ExternalPlan(
        source=source, source_address=origin, service=target.service, protocol=target.port.protocol, places=places
    )


def _address_of(workload: Workload, asked_for: SocketAddress, port: int) -> SocketAddress | None:
    """The workload's address: the one asked for, else one of the family asked for, else any."""
    if asked_for.ip in workload.addresses:
        return SocketAddress(asked_for.ip, port)
    same = [ip for ip in workload.addresses if (":" in ip) == (":" in asked_for.ip)]
    for ip in (*same, *workload.addresses):
        return SocketAddress(ip, port)
    return None


def registered_address(source: Workload, origin: SocketAddress, towards: SocketAddress) -> SocketAddress:
    """The source's address as the mesh knows it: a captured connection itself comes from a loopback address."""
    if origin.ip in source.addresses:
        return origin
    same = [ip for ip in source.addresses if (":" in ip) == (":" in towards.ip)]
    for ip in (*same, *source.addresses):
        return SocketAddress(ip, origin.port)
    return origin


def inbound(
    state: NodeState,
    node: str,
    peer: tuple[SpiffeId, SocketAddress],
    sni_workload: Workload | None,
    request: ConnectRequest,
    authorizer: Authorizer,
) -> InboundPlan | Refusal:
    """Decide for a stream of a tunnel: ``peer`` is the identity that TLS proved and the tunnel's remote address."""
    identity, tunnel_address = peer
    if not state.ready:
        return Refusal(reason=Reason.NOT_READY, detail="the agent has no state from control yet")
    if sni_workload is not None:  # as it is now: the tunnel may be older than its ports
        sni_workload = state.workload(sni_workload.uid) or sni_workload
    found = _inbound_target(state, sni_workload, request)
    if isinstance(found, Refusal):
        return found
    destination, address, service = found
    current = state.workload(destination.uid)
    if current is None or current.node != node:
        detail = f"workload {destination.uid} is not (or no longer) on this node"
        return Refusal(reason=Reason.BAD_TARGET, detail=detail, status=400)
    source = _claimed_source(state, identity, request)
    source_address = tunnel_address
    claimed = request.forwarded_for
    if claimed is not None and source is not None and state.owns(source, claimed.ip):
        source_address = claimed
    connection = Connection(
        source_identity=identity, source_ip=source_address.ip, destination_ip=address.ip, destination_port=address.port
    )
    verdict = authorizer.authorize(current, connection)
    if isinstance(verdict, Denial):
        return Refusal(
            reason=verdict.reason, detail=verdict.detail, status=401, source=source, destination=current,
            service=service,
        )  # fmt: skip
    return InboundPlan(
        permit=verdict, connection=connection, destination=current, address=address, service=service, source=source,
        source_address=source_address, claimed_address=claimed if claimed != source_address else None,
    )  # fmt: skip


def _inbound_target(
    state: NodeState, sni_workload: Workload | None, request: ConnectRequest
) -> tuple[Workload, SocketAddress, Service | None] | Refusal:
    authority = request.authority
    service = _service_of(state, request.forwarded_host)
    if isinstance(authority, Hostname):
        return _hostname_target(state, sni_workload, authority)
    workload = sni_workload if sni_workload is not None else state.by_address_port(authority)
    if workload is None or authority.ip not in workload.addresses or authority.port not in workload.ports:
        detail = f"{authority} is not an address and port of {'a workload here' if workload is None else workload.uid}"
        return Refusal(reason=Reason.BAD_TARGET, detail=detail, status=400, destination=workload)
    if service is not None and workload.uid not in service.endpoints:
        service = None
    return workload, authority, service or state.service_before(workload, authority.port)


def _hostname_target(
    state: NodeState, sni_workload: Workload | None, authority: Hostname
) -> tuple[Workload, SocketAddress, Service | None] | Refusal:
    service = _service_of(state, authority.name)
    ports = [] if service is None else [p for p in service.ports if p.port == authority.port]
    if service is None or not ports:
        detail = f"no service of the mesh is {authority}"
        return Refusal(reason=Reason.BAD_TARGET, detail=detail, status=400, destination=sni_workload)
    if sni_workload is None or sni_workload.uid not in service.endpoints or not sni_workload.addresses:
        detail = f"{authority} is not served by the workload that the tunnel was opened for"
        return Refusal(reason=Reason.BAD_TARGET, detail=detail, status=400, destination=sni_workload, service=service)
    return sni_workload, SocketAddress(sni_workload.addresses[0], ports[0].target_port), service


def _service_of(state: NodeState, hostname: str) -> Service | None:
    return state.by_hostname(hostname) if hostname else None


def _claimed_source(state: NodeState, identity: SpiffeId, request: ConnectRequest) -> Workload | None:
    """The workload that the baggage names, if it has the identity that TLS proved; a claim alone is nothing. Where the
    baggage names none (Istio's agents), the workload that alone has the identity.
    """
    namespace = request.baggage.get("k8s.namespace.name", "")
    name = ""
    for key, value in request.baggage.items():
        if key.startswith("k8s.") and key.endswith(".name") and key not in _NAMES_OF_OTHERS:
            name = value
            break
    if not namespace and not name:
        return state.by_identity(str(identity))
    workload = state.by_namespace_name(namespace, name) if namespace and name else None
    return workload if workload is not None and workload.identity == str(identity) else None


def plaintext(
    state: NodeState, node: str, client: SocketAddress, asked_for: SocketAddress, authorizer: Authorizer
) -> PlaintextPlan | Refusal:
    """Decide for a connection from outside the mesh: nobody vouches for the client, its address is all there is."""
    if not state.ready:
        return Refusal(reason=Reason.NOT_READY, detail="the agent has no state from control yet")
    destination = _listening(state, node, asked_for)
    if destination is None:
        detail = f"{asked_for} is a port of no workload of this node, or of several"
        return Refusal(reason=Reason.UNKNOWN_DESTINATION, detail=detail)
    service = state.service_before(destination, asked_for.port)
    connection = Connection(
        source_identity=None, source_ip=client.ip, destination_ip=asked_for.ip, destination_port=asked_for.port
    )
    verdict = authorizer.authorize(destination, connection)
    if isinstance(verdict, Denial):
        return Refusal(reason=verdict.reason, detail=verdict.detail, destination=destination, service=service)
    return PlaintextPlan(permit=verdict, destination=destination, address=asked_for, service=service)


def _listening(state: NodeState, node: str, address: SocketAddress) -> Workload | None:
    """The workload whose server is at this address: by the address itself, where the agent would connect to it, or
    alone with that port on the node."""
    here = [w for w in state.local_workloads(node) if address.port in w.ports]
    for found in (
        [w for w in here if address.ip in w.addresses],
        [w for w in here if address.ip == w.app_address],
        here,
    ):
        if found:
            return found[0] if len(found) == 1 else None
    return None
