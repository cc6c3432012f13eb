"""Resources -> discovery objects. Pure: the same catalogue gives the same objects, whatever came before.

Sources: the canonical service and revision labels are Istio's (istio/istio, pkg/model/proxy.go, and its labels
reference); PeerAuthentication precedence and the root namespace (EgressPolicy has the same) are those of
istio.io/latest/docs/reference/config/security/.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from control.registry import policies as spec
from control.registry.catalogue import Catalogue, selects
from control.registry.entries import ServiceEntry
from control.registry.meshconfig import MeshConfigSpec
from control.registry.services import Service as ServiceResource
from control.registry.workloads import Workload as WorkloadResource
from control.wire import discovery as wire
from control.wire import governed
from control.wire.ids import DEFAULT_DOMAIN, ROOT_NAMESPACE, SpiffeId

CANONICAL_NAME_LABELS = ("service.istio.io/canonical-name", "app.kubernetes.io/name", "app")
CANONICAL_REVISION_LABELS = ("service.istio.io/canonical-revision", "app.kubernetes.io/version", "version")
DEFAULT_REVISION = "latest"

Scoped = TypeVar("Scoped", spec.PeerAuthentication, spec.EgressPolicy)

Objects = dict[tuple[str, str], wire.DiscoveryObject]
"""(kind on the wire, uid) -> object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """What the objects say of the mesh as a whole."""

    trust_domain: str
    domain: str = DEFAULT_DOMAIN
    cluster: str
    roots: tuple[str, ...]
    """PEM, one certificate each."""


def project(catalogue: Catalogue, mesh: Mesh) -> Objects:
    """Everything that agents are told about these resources."""
    selection = _Selection(catalogue)
    bundle = wire.TrustBundle(uid=mesh.trust_domain, certificates=mesh.roots)
    objects: Objects = {("bundle", bundle.uid): bundle, ("mesh", wire.MESH_UID): _settings(catalogue, mesh)}
    for policy in catalogue.policies():
        objects["policy", policy.uid] = project_policy(policy)
    for workload in catalogue.workloads():
        objects["workload", workload.uid] = _workload(workload, catalogue, selection, mesh)
    for service in catalogue.services():
        objects["service", service.uid] = _service(service, catalogue, mesh)
    for entry in catalogue.service_entries():
        for external in _external(entry):
            objects["service", external.uid] = external
    return objects


def _settings(catalogue: Catalogue, mesh: Mesh) -> wire.MeshSettings:
    config = catalogue.mesh_config()
    said = config.spec if config is not None else MeshConfigSpec()
    return wire.MeshSettings(
        uid=wire.MESH_UID, domain=mesh.domain, splice=said.splice,
        idle_timeout=governed.idle_timeout(said.idle_timeout),
    )  # fmt: skip


class _Selection:
    """Policies by namespace, so that a workload is only held against those that could select it."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._policies: dict[str, list[spec.AuthorizationPolicy]] = {}
        self._peers: dict[str, list[spec.PeerAuthentication]] = {}
        self._egress: dict[str, list[spec.EgressPolicy]] = {}
        for policy in catalogue.policies():
            self._policies.setdefault(policy.namespace, []).append(policy)
        for peer in catalogue.peer_authentications():
            self._peers.setdefault(peer.namespace, []).append(peer)
        for egress in catalogue.egress_policies():
            self._egress.setdefault(egress.namespace, []).append(egress)

    def policies_of(self, workload: WorkloadResource) -> tuple[str, ...]:
        """uids of those that select it, sorted."""
        found = [p.uid for p in self._policies.get(workload.namespace, ()) if selects(p.spec.selector, workload.labels)]
        if workload.namespace != ROOT_NAMESPACE:
            found += [
                p.uid for p in self._policies.get(ROOT_NAMESPACE, ()) if selects(p.spec.selector, workload.labels)
            ]
        return tuple(sorted(found))

    def port_modes_of(self, workload: WorkloadResource) -> dict[str, wire.MtlsMode]:
        """Modes of single ports, of PeerAuthentications that select the workload itself; the oldest first."""
        modes: dict[str, wire.MtlsMode] = {}
        narrow, _, _ = _levels(self._peers, workload)
        for peer in narrow:
            for port, mtls in peer.spec.port_level_mtls.items():
                if mtls.mode != "UNSET":
                    modes.setdefault(port, wire.MtlsMode(mtls.mode))
        return modes

    def mode_of(self, workload: WorkloadResource) -> wire.MtlsMode:
        """The mode of the narrowest PeerAuthentication that sets one: workload, namespace, mesh; PERMISSIVE if none
        does."""
        for level in _levels(self._peers, workload):
            for peer in level:
                if peer.spec.mtls.mode != "UNSET":
                    return wire.MtlsMode(peer.spec.mtls.mode)
        return wire.MtlsMode.PERMISSIVE

    def egress_of(self, workload: WorkloadResource) -> tuple[wire.EgressMode, str]:
        """The mode of the narrowest EgressPolicy and its uid; ALLOW_ANY if there is none."""
        for level in _levels(self._egress, workload):
            for policy in level:
                return wire.EgressMode(policy.spec.mode), policy.uid
        return wire.EgressMode.ALLOW_ANY, ""


def _levels(policies: Mapping[str, list[Scoped]], workload: WorkloadResource) -> tuple[list[Scoped], ...]:
    """Those for the workload itself, for its namespace, for the mesh; of each the oldest first."""
    own = policies.get(workload.namespace, ())
    root = policies.get(ROOT_NAMESPACE, ())
    narrow = [p for p in own if _labelled(p.spec.selector) and selects(p.spec.selector, workload.labels)]
    return tuple(sorted(level, key=_age) for level in (narrow, _wide(own), _wide(root)))


def _labelled(selector: spec.LabelSelector | None) -> bool:
    return selector is not None and bool(selector.match_labels)


def _wide(policies: Iterable[Scoped]) -> list[Scoped]:
    return [policy for policy in policies if not _labelled(policy.spec.selector)]


def _age(policy: spec.PeerAuthentication | spec.EgressPolicy) -> tuple[int, str]:
    """Where two apply equally, the one made first wins (as in Istio)."""
    return int(policy.uid.rpartition("@")[2]), policy.name


def project_policy(policy: spec.AuthorizationPolicy) -> wire.AuthorizationPolicy:
    """The wire form of a policy; which workloads it selects is told by them."""
    rules = tuple(
        wire.PolicyRule(
            sources=tuple(_source(item.source) for item in rule.from_ or ()),
            operations=tuple(_operation(item.operation) for item in rule.to or ()),
        )
        for rule in policy.spec.rules
    )
    return wire.AuthorizationPolicy(
        uid=policy.uid, name=policy.name, namespace=policy.namespace, action=policy.spec.action, rules=rules
    )


def _source(source: spec.SourceSpec) -> wire.SourceMatch:
    return wire.SourceMatch(
        principals=source.principals or (),
        not_principals=source.not_principals or (),
        namespaces=source.namespaces or (),
        not_namespaces=source.not_namespaces or (),
        ip_blocks=source.ip_blocks or (),
        not_ip_blocks=source.not_ip_blocks or (),
    )


def _operation(operation: spec.OperationSpec) -> wire.OperationMatch:
    return wire.OperationMatch(
        ports=tuple(int(port) for port in operation.ports or ()),
        not_ports=tuple(int(port) for port in operation.not_ports or ()),
    )


def _workload(
    workload: WorkloadResource,
    catalogue: Catalogue,
    selection: _Selection,
    mesh: Mesh,
) -> wire.Workload:
    labels = workload.labels
    service = _first(labels, CANONICAL_NAME_LABELS) or workload.name
    revision = _first(labels, CANONICAL_REVISION_LABELS) or DEFAULT_REVISION
    account = workload.spec.service_account
    egress_mode, egress_policy = selection.egress_of(workload)
    return wire.Workload(
        uid=workload.uid,
        name=workload.name,
        namespace=workload.namespace,
        node=workload.spec.node,
        identity=str(SpiffeId.workload(mesh.trust_domain, workload.namespace, account)),
        addresses=catalogue.addresses_of(workload),
        ports=catalogue.ports_of(workload),
        app_address=workload.spec.app_address,
        selectors=_selectors(workload),
        policies=selection.policies_of(workload),
        mtls_mode=selection.mode_of(workload),
        port_mtls_modes=selection.port_modes_of(workload),
        probe_ports=workload.spec.probe_ports,
        egress_mode=egress_mode,
        egress_policy=egress_policy,
        splice=_splice(labels),
        idle_timeout=_idle_timeout(labels),
        tunnel_addresses=catalogue.tunnel_addresses_of(workload),
        sni=f"{workload.name}.{workload.namespace}.workload.{mesh.trust_domain}",
        labels=dict(labels),
        canonical_service=service,
        canonical_revision=revision,
        app=_first(labels, ("app", "app.kubernetes.io/name")) or service,
        version=_first(labels, ("version", "app.kubernetes.io/version")) or revision,
        cluster=mesh.cluster,
        service_account=account,
    )


def _selectors(workload: WorkloadResource) -> wire.Selectors:
    said = workload.spec.selectors
    return wire.Selectors(
        systemd_unit=said.systemd_unit, cgroup_path=said.cgroup_path, container_id=said.container_id,
        container_labels=said.container_labels, pod_uid=said.pod_uid, uid=said.uid,
    )  # fmt: skip


def _first(labels: Mapping[str, str], names: Iterable[str]) -> str:
    return next((labels[name] for name in names if labels.get(name)), "")


def _service(service: ServiceResource, catalogue: Catalogue, mesh: Mesh) -> wire.Service:
    ports = tuple(
        wire.ServicePort(name=p.label, port=p.port, target_port=p.target, protocol=p.app_protocol)
        for p in service.spec.ports
    )
    return wire.Service(
        uid=service.uid,
        name=service.name,
        namespace=service.namespace,
        hostname=f"{service.name}.{service.namespace}.{mesh.domain}",
        addresses=service.addresses,
        ports=ports,
        endpoints=tuple(workload.uid for workload in catalogue.workloads_of(service)),
        splice=_splice(service.labels),
        idle_timeout=_idle_timeout(service.labels),
    )


def _external(entry: ServiceEntry) -> Iterator[wire.Service]:
    """A service for each host: each has names, addresses and counts of its own."""
    ports = tuple(
        wire.ServicePort(name=p.name, port=p.number, target_port=p.target_port or p.number, protocol=p.app_protocol)
        for p in entry.spec.ports
    )
    endpoints = tuple(wire.ExternalEndpoint(address=e.address, ports=dict(e.ports)) for e in entry.spec.endpoints)
    for host in entry.spec.hosts:
        yield wire.Service(
            uid=f"{entry.uid}/{host}",
            name=host,
            namespace=entry.namespace,
            hostname=host,
            addresses=entry.addresses_of(host),
            ports=ports,
            endpoints=(),
            external=wire.External(
                resolution=entry.spec.resolution, endpoints=endpoints or (wire.ExternalEndpoint(address=host),)
            ),
            splice=False,
            idle_timeout=_idle_timeout(entry.labels),
        )


def _splice(labels: Mapping[str, str]) -> bool:
    return labels.get(governed.SPLICE_LABEL) != "off"


def _idle_timeout(labels: Mapping[str, str]) -> int | None:
    """None also for what an older control let in and nobody can read."""
    try:
        text = labels.get(governed.IDLE_TIMEOUT_LABEL)
        return None if text is None else governed.idle_timeout(text)
    except ValueError:
        return None


def identities_of(catalogue: Catalogue, node: str, trust_domain: str) -> frozenset[str]:
    """The SPIFFE IDs of the workloads placed on a node: all that it may get SVIDs for."""
    return frozenset(
        str(SpiffeId.workload(trust_domain, w.namespace, w.spec.service_account))
        for w in catalogue.workloads()
        if w.spec.node == node
    )
