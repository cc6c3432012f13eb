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


MeshAddress = Annotated[IpAddress, AfterValidator(check_mesh_address)]
TargetPort = Annotated[Port, AfterValidator(check_target_port)]
Unit = Annotated[str, AfterValidator(check_unit)]
CgroupPath = Annotated[str, AfterValidator(check_cgroup_path)]
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
    """How the kernel's facts name the processes: exactly one of them."""

    systemd_unit: Unit | None = None
    cgroup_path: CgroupPath | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> SelectorsSpec:
        if (self.systemd_unit is None) == (self.cgroup_path is None):
            raise ValueError("exactly one of systemdUnit and cgroupPath must be given")
        return self

    @property
    def text(self) -> str:
        """For messages and comparison."""
        return f"systemdUnit {self.systemd_unit}" if self.systemd_unit is not None else f"cgroupPath {self.cgroup_path}"


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
