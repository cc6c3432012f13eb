"""Workload: processes with one identity on one node, and how the node's kernel knows them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from control.kinds import node
from control.kinds.base.cells import EMPTY, joined, pairs
from control.kinds.base.fault import Fault
from control.kinds.base.fields import IpAddress, MeshAddresses, Name, TargetPorts
from control.kinds.base.flows import idle_timeout_of, splice_of
from control.kinds.base.kind import Kind, Lookup, Proposal, Section, View
from control.kinds.base.mesh import Mesh
from control.kinds.base.model import Model, Resource
from control.kinds.base.relations import Labels, Object, ReferenceField
from control.wire import discovery as wire
from control.wire.address import canonical_ip
from control.wire.ids import SpiffeId, SpiffeIdError

MAX_PATH_CHARACTERS = 1024
MAX_LABELS = 16
MAX_USER = 2**32 - 2
MAX_LABEL_CHARACTERS = 512

# Istio's canonical service and revision (istio/istio, pkg/model/proxy.go, and its labels reference).
CANONICAL_NAME_LABELS = ("service.istio.io/canonical-name", "app.kubernetes.io/name", "app")
CANONICAL_REVISION_LABELS = ("service.istio.io/canonical-revision", "app.kubernetes.io/version", "version")
DEFAULT_REVISION = "latest"

_CONTAINER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,254}\Z")
_POD_UID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z|[0-9a-f]{32}\Z")
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]{1,247}\.(service|scope|slice)\Z")


def check_app_address(text: str) -> str:
    """An address to which the node's own agent connects; it may be loopback."""
    address = ipaddress.ip_address(canonical_ip(text))
    if address.is_unspecified or address.is_multicast:
        raise ValueError(f"{text} is not an address to connect to")
    return str(address)


def check_unit(text: str) -> str:
    """A systemd unit name with its suffix."""
    if not _UNIT.match(text):
        raise ValueError(f"{text[:80]!r} is not a unit name; write it with its suffix, such as nginx.service")
    return text


def check_cgroup_path(text: str) -> str:
    """An absolute path below the agent's cgroup root, in its one spelling."""
    parts = text.split("/")
    if len(text) > MAX_PATH_CHARACTERS or not text.startswith("/") or "\0" in text:
        raise ValueError(f"{text[:80]!r} is not an absolute path such as /shop/web")
    if text == "/" or any(part in ("", ".", "..") for part in parts[1:]):
        raise ValueError(f"{text[:80]!r} must name a cgroup below the root, without '.', '..', '//' or a trailing '/'")
    return text


def check_service_account(text: str) -> str:
    """A path segment of a SPIFFE ID."""
    try:
        whole = SpiffeId.workload("x", "x", text).is_workload
    except SpiffeIdError:
        whole = False
    if not whole:
        raise ValueError(f"{text[:80]!r} is not a service account: letters, digits, '.', '_' and '-' only")
    return text


def check_container_id(text: str) -> str:
    """A container ID as runtimes write it; of Docker's and Podman's 64 hexadecimal digits 12 are enough."""
    if not _CONTAINER_ID.match(text):
        raise ValueError(f"{text[:80]!r} is not a container's id: letters, digits, '_', '.', '+' and '-' only")
    return text


def check_container_labels(labels: dict[str, str]) -> dict[str, str]:
    """Labels of containers: free text, within bounds."""
    for key, value in labels.items():
        if not key or len(key) > MAX_LABEL_CHARACTERS or len(value) > MAX_LABEL_CHARACTERS:
            raise ValueError(f"{key[:80]!r}: labels have a name, and at most {MAX_LABEL_CHARACTERS} characters")
    return labels


def check_pod_uid(text: str) -> str:
    """The pod's metadata.uid; for a static pod its annotation kubernetes.io/config.hash."""
    if not _POD_UID.match(text):
        raise ValueError(f"{text[:80]!r} is not a pod's UID, such as 0ba7f3c2-6a1e-4d1c-9f8e-2c1f3a4b5d6e")
    return text


Unit = Annotated[str, AfterValidator(check_unit)]
CgroupPath = Annotated[str, AfterValidator(check_cgroup_path)]
ContainerId = Annotated[str, AfterValidator(check_container_id)]
PodUid = Annotated[str, AfterValidator(check_pod_uid)]
ServiceAccount = Annotated[str, Field(max_length=253), AfterValidator(check_service_account)]


class SelectorsSpec(Model):
    """How facts of the node name the processes: exactly one of them."""

    systemd_unit: Unit | None = None
    cgroup_path: CgroupPath | None = None
    container_id: ContainerId | None = None
    container_labels: Annotated[
        dict[str, str], Field(max_length=MAX_LABELS), AfterValidator(check_container_labels)
    ] = Field(default_factory=dict)
    pod_uid: PodUid | None = None
    uid: Annotated[int, Field(ge=0, le=MAX_USER)] | None = None
    """Only the processes of this user in that cgroup, for services that share one."""

    @model_validator(mode="after")
    def _exactly_one(self) -> SelectorsSpec:
        if len(self._given) != 1:
            names = "systemdUnit, cgroupPath, containerId, containerLabels and podUid"
            raise ValueError(f"exactly one of {names} must be given")
        if self.uid is not None and self.systemd_unit is None and self.cgroup_path is None:
            raise ValueError("uid goes with systemdUnit or cgroupPath: containers have cgroups of their own")
        return self

    @property
    def _given(self) -> dict[str, str]:
        labels = ",".join(f"{key}={value}" for key, value in sorted(self.container_labels.items()))
        found = {
            "systemdUnit": self.systemd_unit, "cgroupPath": self.cgroup_path, "containerId": self.container_id,
            "containerLabels": labels or None, "podUid": self.pod_uid,
        }  # fmt: skip
        return {name: value for name, value in found.items() if value is not None}

    @property
    def text(self) -> str:
        """For messages and comparison: equal texts select the same processes."""
        user = () if self.uid is None else (f"uid {self.uid}",)
        return " ".join((*(f"{name} {value}" for name, value in self._given.items()), *user))


class WorkloadSpec(Model):
    """Processes with one identity on one node."""

    node: Name
    service_account: ServiceAccount = "default"
    addresses: MeshAddresses = ()
    """None given: the node's."""
    app_address: Annotated[IpAddress, AfterValidator(check_app_address)] | None = None
    ports: TargetPorts = ()
    probe_ports: TargetPorts = ()
    """Ports that accept plaintext health checks from programs of the node, whatever PeerAuthentication says."""
    selectors: SelectorsSpec


def addresses_of(workload: Resource[WorkloadSpec], view: View) -> tuple[str, ...]:
    """Its own addresses, or else its node's."""
    if workload.spec.addresses:
        return workload.spec.addresses
    home = view.find(node.KIND, workload.spec.node)
    return home.spec.addresses if home else ()


def identities_of(view: View, node_name: str, trust_domain: str) -> frozenset[str]:
    """The SPIFFE IDs of the workloads placed on a node: all that it may get SVIDs for."""
    return frozenset(
        str(SpiffeId.workload(trust_domain, w.namespace, w.spec.service_account))
        for w in view.of(KIND)
        if w.spec.node == node_name
    )


def _check_selectors(proposal: Proposal) -> Iterable[Fault]:
    """A process belongs to one workload."""
    seen: dict[tuple[str, str], Resource[WorkloadSpec]] = {}
    for workload in proposal.view.of(KIND):
        text = workload.spec.selectors.text
        other = seen.setdefault((workload.spec.node, text), workload)
        if other is not workload:
            why = f"both select {text} on node {workload.spec.node}"
            yield proposal.clash(workload, other, "spec.selectors", why)


def _project(workload: Resource[WorkloadSpec], view: View, mesh: Mesh) -> Iterable[wire.Workload]:
    spec, labels = workload.spec, workload.labels
    service = _first(labels, CANONICAL_NAME_LABELS) or workload.name
    revision = _first(labels, CANONICAL_REVISION_LABELS) or DEFAULT_REVISION
    yield wire.Workload(
        uid=workload.uid,
        name=workload.name,
        namespace=workload.namespace,
        node=spec.node,
        identity=str(SpiffeId.workload(mesh.trust_domain, workload.namespace, spec.service_account)),
        addresses=addresses_of(workload, view),
        ports=tuple(sorted(spec.ports)),
        app_address=spec.app_address,
        selectors=_wire_selectors(spec.selectors),
        probe_ports=spec.probe_ports,
        splice=splice_of(labels),
        idle_timeout=idle_timeout_of(labels),
        tunnel_addresses=_tunnel_addresses(workload, view),
        sni=f"{workload.name}.{workload.namespace}.workload.{mesh.trust_domain}",
        labels=dict(labels),
        canonical_service=service,
        canonical_revision=revision,
        app=_first(labels, ("app", "app.kubernetes.io/name")) or service,
        version=_first(labels, ("version", "app.kubernetes.io/version")) or revision,
        cluster=mesh.cluster,
        service_account=spec.service_account,
    )


def _tunnel_addresses(workload: Resource[WorkloadSpec], view: View) -> tuple[str, ...]:
    """The node's addresses, if it has others: those of a container need not be routed between nodes."""
    home = view.find(node.KIND, workload.spec.node)
    if home is None or set(workload.spec.addresses) <= set(home.spec.addresses):
        return ()
    return home.spec.addresses


def _wire_selectors(spec: SelectorsSpec) -> wire.Selectors:
    return wire.Selectors(
        systemd_unit=spec.systemd_unit,
        cgroup_path=spec.cgroup_path,
        container_id=spec.container_id,
        container_labels=spec.container_labels,
        pod_uid=spec.pod_uid,
        uid=spec.uid,
    )


def _first(labels: Labels, names: Iterable[str]) -> str:
    return next((labels[name] for name in names if labels.get(name)), "")


def _processes(document: Object) -> str:
    """As the agent shows them; a form that only a newer control knows is shown as it came."""
    selectors: Mapping[str, Any] = document["spec"]["selectors"]
    known = wire.Selectors(
        systemd_unit=selectors.get("systemdUnit"),
        cgroup_path=selectors.get("cgroupPath"),
        container_id=selectors.get("containerId"),
        container_labels=selectors.get("containerLabels") or {},
        pod_uid=selectors.get("podUid"),
        uid=selectors.get("uid"),
    )
    return known.text or pairs(selectors)


def _service_account(document: Object) -> str:
    return str(document["spec"].get("serviceAccount", "default"))


def _identity(document: Object, lookup: Lookup) -> list[str]:
    namespace = document["metadata"]["namespace"]
    return [str(SpiffeId.workload(lookup.trust_domain(), namespace, _service_account(document)))]


KIND = Kind(
    name="Workload",
    plural="workloads",
    aliases=("wl",),
    doc="A group of processes with one identity on one node.",
    order=30,
    spec=WorkloadSpec,
    checks=(_check_selectors,),
    flow_labels=True,
    references=(
        ReferenceField(
            field="spec.node",
            kind="Node",
            namespaced=False,
            in_use="workloads are placed on it",
            section="workloads on it",
        ),
    ),
    addresses=lambda workload: workload.spec.addresses,
    wire=wire.Workload,
    project=_project,
    columns=(
        ("NODE", lambda o: str(o["spec"]["node"])),
        ("SERVICE-ACCOUNT", _service_account),
        ("PORTS", lambda o: joined(o["spec"].get("ports"))),
        ("PROCESSES", _processes),
    ),
    wide=(
        ("ADDRESSES", lambda o: joined(o["spec"].get("addresses"))),
        ("APP-ADDRESS", lambda o: str(o["spec"].get("appAddress") or EMPTY)),
        ("LABELS", lambda o: pairs(o["metadata"].get("labels"))),
    ),
    remark=lambda o: f"on {o['spec']['node']}",
    sections=(
        Section(title="identity", lines=_identity),
        Section(title="agent of its node", lines=lambda o, lookup: [lookup.agent(o["spec"]["node"])]),
    ),
)
