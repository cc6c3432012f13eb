"""What would become of a connection, step by step. Pure, over the read model: the read model resolves, the evaluator
judges (``policy.explain``), and what they say is put into words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from typing import Any

from control.wire.address import AddressError, SocketAddress, canonical_ip, parse_port
from control.wire.discovery import EgressMode, MtlsMode, Resolution, Service, Workload
from control.wire.governed import CAPTURE_LABEL
from nodeagent.policy.connection import Connection
from nodeagent.policy.explain import explain as judge
from nodeagent.policy.plaintext import effective_mode
from nodeagent.relay.decide import policy_connection, registered_address
from nodeagent.state.targets import ExternalTarget, ServiceTarget, Unresolved
from nodeagent.state.view import NodeState

_MODES = {
    MtlsMode.STRICT: "STRICT: refused, whatever policies say",
    MtlsMode.PERMISSIVE: "PERMISSIVE: the agent takes it, and policies decide",
    MtlsMode.DISABLE: "DISABLE: the agent does not see it, and no policy applies",
}
MAX_ENDPOINTS = 20
"""Endpoints of a service that are looked at; a service has one policy more often than not."""


class UnknownNameError(ValueError):
    """Nothing in the mesh is called so, or several things are; the message says what could be meant."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens to the connection, in order."""

    what: str
    good: bool
    why: str


@dataclass(frozen=True, slots=True)
class ConnectionExplanation:
    """``verdict``: allowed, refused, or bypasses (the mesh does not touch it)."""

    source: str
    destination: str
    steps: tuple[Step, ...]
    verdict: str

    def document(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def explain(
    state: NodeState, source: str, destination: str, captured: Iterable[str] | None = None
) -> ConnectionExplanation:
    """From a workload (``[namespace/]name``) or an address, to a service, a workload, a host name or an address, each
    with an optional ``:port``. ``captured``: uids of this node's workloads that are captured now (None: not known).

    UnknownNameError if a name means nothing.
    """
    client = _client(state, source)
    asked_for = _destination(state, destination, client)
    steps = [Step("destination", True, f"{destination} is {asked_for}")] if str(asked_for) != destination else []
    if isinstance(client, Workload):
        if client.labels.get(CAPTURE_LABEL) == "off":
            why = f"{client.uid} has left (label {CAPTURE_LABEL}=off): the kernel leaves its connections alone"
            return ConnectionExplanation(
                source, f"{asked_for}", (*steps, Step("capture", True, why)), "bypasses the mesh"
            )
        steps.append(_source_step(client, captured))
    target = state.resolve(asked_for)
    if isinstance(target, Unresolved):
        left = _outside(client, asked_for, target)
        verdict = "bypasses the mesh" if left.good else "refused"
        return ConnectionExplanation(source, str(asked_for), (*steps, left), verdict)
    if isinstance(target, ExternalTarget):
        steps.append(_external_step(target))
        if not isinstance(client, Workload):
            return ConnectionExplanation(source, str(asked_for), tuple(steps), "bypasses the mesh")
        good = all(step.good for step in steps)
        return ConnectionExplanation(source, str(asked_for), tuple(steps), "allowed" if good else "refused")
    if isinstance(target, ServiceTarget):
        steps.append(_service_step(target))
        endpoints: Sequence[Workload] = target.endpoints
        port = target.port.target_port
    else:
        endpoints, port = (target.workload,), target.port
    good = bool(endpoints) and all(step.good for step in steps)
    answers = [_endpoint(state, client, asked_for, endpoint, port) for endpoint in endpoints[:MAX_ENDPOINTS]]
    for told, _ in answers:
        steps += told
    allowed = [permitted for _, permitted in answers]
    verdict = "refused" if not good or not any(allowed) else "allowed"
    if verdict == "allowed" and not all(allowed):
        verdict = f"allowed by {sum(allowed)} of {len(allowed)} endpoints"
    return ConnectionExplanation(source, str(asked_for), tuple(steps), verdict)


def _outside(client: Workload | str, asked_for: SocketAddress, target: Unresolved) -> Step:
    """A destination that is not in the mesh: the egress policy decides."""
    alone = f"{target.detail}: the kernel leaves the connection alone"
    if not isinstance(client, Workload):
        return Step("capture", True, alone)
    inside = ip_address(asked_for.ip)
    if inside.is_loopback or inside.is_unspecified:
        return Step("egress", True, f"{asked_for} is the workload's own host: loopback is always allowed")
    policy = f"EgressPolicy {client.egress_policy}" if client.egress_policy else "no EgressPolicy selects the workload"
    if client.egress_mode is EgressMode.ALLOW_ANY:
        return Step("egress", True, f"{alone} (ALLOW_ANY: {policy})")
    why = f"{target.detail}, and {client.uid} may reach only what the registry names (REGISTRY_ONLY: {policy})"
    return Step("egress", False, f"{why}: connect() and sendto() fail with EPERM")


def _source_step(client: Workload, captured: Iterable[str] | None) -> Step:
    if captured is not None and client.uid not in set(captured):
        return Step("source", False, f"{client.uid} is not captured on this node: 'nodeagent doctor' tells why")
    return Step("source", True, f"{client.uid} on {client.node}, as {client.identity}")


def _external_step(target: ExternalTarget) -> Step:
    """A destination outside the mesh that its registry names."""
    service = target.service
    dns = service.external is not None and service.external.resolution is Resolution.DNS
    places = ", ".join(f"{place.host} port {place.port}" for place in target.places[:MAX_ENDPOINTS]) or "nowhere"
    found = "looked up" if dns and target.direct is None else "as written down"
    why = f"{service.uid} is outside the mesh: the agent connects to {places} ({found}), without mutual TLS"
    return Step("service entry", bool(target.places), f"{why}; no AuthorizationPolicy applies, an EgressPolicy lets it")


def _service_step(target: ServiceTarget) -> Step:
    service = target.service
    missing = f", {target.missing} more not known to this node" if target.missing else ""
    named = f"port {target.port.port} of service {service.uid}, target port {target.port.target_port}"
    return Step("service", bool(target.endpoints), f"{named}: {len(target.endpoints)} endpoints{missing}")


def _endpoint(
    state: NodeState, client: Workload | str, asked_for: SocketAddress, endpoint: Workload, port: int
) -> tuple[list[Step], bool]:
    """The steps at one endpoint, and whether it permits."""
    address = SocketAddress(endpoint.addresses[0] if endpoint.addresses else asked_for.ip, port)
    if isinstance(client, Workload):
        origin = registered_address(client, SocketAddress(asked_for.ip, 0), address)
        connection = policy_connection(client.identity, origin, address)
        way = (
            f"same node {endpoint.node}: authorized by its agent, then from socket to socket"
            if client.node == endpoint.node
            else f"by mutual TLS to {endpoint.node}, which must show {endpoint.identity}"
        )
    else:
        connection = Connection(None, client, address.ip, port)
        way = "plaintext from outside the mesh"
    steps = [Step(f"endpoint {endpoint.uid}", True, f"{address}, {way}")]
    if not isinstance(client, Workload):
        mode = effective_mode(endpoint, port)
        steps.append(Step("peer authentication", mode is not MtlsMode.STRICT, _MODES[mode]))
        if mode is not MtlsMode.PERMISSIVE:
            return steps, mode is MtlsMode.DISABLE
    judged = judge(connection, state.policies_of(endpoint))
    steps += [
        Step(f"policy {step.policy}" if step.policy else "policy", step.matched, f"{step.place}: {step.why}")
        for step in judged
    ]
    return steps, judged[-1].matched


def _client(state: NodeState, text: str) -> Workload | str:
    """A workload, or the address of somebody outside the mesh."""
    try:
        return canonical_ip(text.strip("[]"))
    except AddressError:
        return _one(text, "workload", [w for w in state.workloads() if _called(w, text)])


def _called(item: Workload | Service, text: str) -> bool:
    namespace, slash, name = text.rpartition("/")
    return item.name == name and (not slash or item.namespace == namespace)


def _one(text: str, kind: str, found: list[Workload]) -> Workload:
    if len(found) == 1:
        return found[0]
    if not found:
        raise UnknownNameError(f"no {kind} of the mesh is called {text!r}; 'meshctl get {kind}s' lists them")
    names = ", ".join(f"{item.namespace}/{item.name}" for item in found[:MAX_ENDPOINTS])
    raise UnknownNameError(f"{text!r} could be {names}; write namespace/name")


def _destination(state: NodeState, text: str, client: Workload | str) -> SocketAddress:
    host, port = _split(text)
    try:
        return SocketAddress(canonical_ip(host), port or _required(text))
    except AddressError:
        pass
    service = state.by_hostname(host)
    services = [service] if service is not None else [s for s in state.services() if _called(s, host)]
    if len(services) > 1 and isinstance(client, Workload):
        services = [s for s in services if s.namespace == client.namespace] or services
    if len(services) > 1:
        names = ", ".join(f"{s.namespace}/{s.name}" for s in services[:MAX_ENDPOINTS])
        raise UnknownNameError(f"{host!r} could be {names}; write namespace/name")
    if services:
        chosen = services[0]
        if not chosen.addresses:
            raise UnknownNameError(f"service {chosen.uid} has no address")
        return SocketAddress(chosen.addresses[0], port or chosen.ports[0].port)
    workload = _one(host, "service or workload", [w for w in state.workloads() if _called(w, host)])
    if not workload.addresses or not (port or workload.ports):
        raise UnknownNameError(f"workload {workload.uid} has no address or no port")
    return SocketAddress(workload.addresses[0], port or workload.ports[0])


def _split(text: str) -> tuple[str, int]:
    """Host and port (0: none). An IPv6 address with a port needs brackets."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, parse_port(rest.removeprefix(":")) if rest else 0
    if text.count(":") != 1:
        return text, 0
    host, _, port = text.partition(":")
    return host, parse_port(port)


def _required(text: str) -> int:
    raise UnknownNameError(f"{text!r}: an address needs a port, such as {text}:80")
