"""Node and Workload: where things run, and how the kernel knows them."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from control.registry.model import MAX_LIST, IpAddress, Model, Name, Port, Resource
from control.wire.address import canonical_ip
from control.wire.ids import SpiffeId, SpiffeIdError

RESERVED_PORTS = (15001, 15006, 15008)
"""The agents' own ports (capture, inbound plaintext, tunnels): never a target."""
RESERVED_NODE_NAMES = ("status",)
"""``/v1/nodes/status`` is taken."""
MAX_ADDRESSES = 16
MAX_PATH_CHARACTERS = 1024
MAX_LABELS = 16
MAX_USER = 2**32 - 2
MAX_LABEL_CHARACTERS = 512

_CONTAINER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,254}\Z")
_POD_UID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z|[0-9a-f]{32}\Z")
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]{1,247}\.(service|scope|slice)\Z")


def check_mesh_address(text: str) -> str:
    """An address by which other nodes can reach something."""
    address = ipaddress.ip_address(canonical_ip(text))
    if address.is_loopback:
        raise ValueError(f"{text} is a loopback address: no other node can reach it (spec.appAddress may be one)")
    if address.is_unspecified or address.is_multicast or (address.version == 6 and address.is_link_local):
        raise ValueError(f"{text} does not name one host (unspecified, multicast or link-local)")
    return str(address)


def check_app_address(text: str) -> str:
    """Where the node's own agent connects: loopback is welcome."""
    address = ipaddress.ip_address(canonical_ip(text))
    if address.is_unspecified or address.is_multicast:
        raise ValueError(f"{text} is not an address to connect to")
    return str(address)


def check_target_port(port: int) -> int:
    """A port that a workload may serve."""
    if port in RESERVED_PORTS:
        raise ValueError(f"{port} is a port of the agents themselves (15001, 15006, 15008)")
    return port


def check_distinct(values: tuple[object, ...]) -> tuple[object, ...]:
    """No entry twice."""
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ValueError(f"{value} is listed twice")
    return values


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
    """As runtimes allow it: docker's and podman's are 64 hexadecimal digits, of which 12 are enough."""
    if not _CONTAINER_ID.match(text):
        raise ValueError(f"{text[:80]!r} is not a container's id: letters, digits, '_', '.', '+' and '-' only")
    return text


def check_container_labels(labels: dict[str, str]) -> dict[str, str]:
    """Labels of containers are free text, within bounds."""
    for key, value in labels.items():
        if not key or len(key) > MAX_LABEL_CHARACTERS or len(value) > MAX_LABEL_CHARACTERS:
            raise ValueError(f"{key[:80]!r}: labels have a name, and at most {MAX_LABEL_CHARACTERS} characters")
    return labels


def check_pod_uid(text: str) -> str:
    """As in metadata.uid of the pod; of a static pod, what its annotation kubernetes.io/config.hash says."""
    if not _POD_UID.match(text):
        raise ValueError(f"{text[:80]!r} is not a pod's UID, such as 0ba7f3c2-6a1e-4d1c-9f8e-2c1f3a4b5d6e")
    return text


MeshAddress = Annotated[IpAddress, AfterValidator(check_mesh_address)]
TargetPort = Annotated[Port, AfterValidator(check_target_port)]
Unit = Annotated[str, AfterValidator(check_unit)]
CgroupPath = Annotated[str, AfterValidator(check_cgroup_path)]
ContainerId = Annotated[str, AfterValidator(check_container_id)]
PodUid = Annotated[str, AfterValidator(check_pod_uid)]
ServiceAccount = Annotated[str, Field(max_length=253), AfterValidator(check_service_account)]


class NodeSpec(Model):
    """A host with one agent."""

    addresses: Annotated[
        tuple[MeshAddress, ...], Field(min_length=1, max_length=MAX_ADDRESSES), AfterValidator(check_distinct)
    ]


class Node(Resource):
    """A host (or network namespace) with one agent."""

    KIND: ClassVar[str] = "Node"
    PLURAL: ClassVar[str] = "nodes"
    NAMESPACED: ClassVar[bool] = False

    kind: Literal["Node"] = "Node"
    spec: NodeSpec


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
    """Only the processes of this user in that cgroup: where several services share one."""

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
        """For messages and comparison."""
        user = () if self.uid is None else (f"uid {self.uid}",)
        return " ".join((*(f"{name} {value}" for name, value in self._given.items()), *user))


class WorkloadSpec(Model):
    """Processes with one identity on one node."""

    node: Name
    service_account: ServiceAccount = "default"
    addresses: Annotated[tuple[MeshAddress, ...], Field(max_length=MAX_ADDRESSES), AfterValidator(check_distinct)] = ()
    """None given: the node's."""
    app_address: Annotated[IpAddress, AfterValidator(check_app_address)] | None = None
    ports: Annotated[tuple[TargetPort, ...], Field(max_length=MAX_LIST), AfterValidator(check_distinct)] = ()
    probe_ports: Annotated[tuple[TargetPort, ...], Field(max_length=MAX_LIST), AfterValidator(check_distinct)] = ()
    """Where health checks by programs of the node itself get in as they are, whatever PeerAuthentication says."""
    selectors: SelectorsSpec


class Workload(Resource):
    """A group of processes with one identity on one node."""

    KIND: ClassVar[str] = "Workload"
    PLURAL: ClassVar[str] = "workloads"

    kind: Literal["Workload"] = "Workload"
    spec: WorkloadSpec
