"""The read model that agents receive, derived by control from the operators' resources.

Every object has a ``uid`` (stable, unique per kind). References between objects are uids. An object that refers to
one which the reader does not hold is *incomplete*, never free of what it refers to: a workload names every policy that
selects it, and a policy that has not arrived denies.

A reader ignores fields and kinds that it does not know, so whatever narrows (a policy) must be named by the objects
that it narrows. An enum value that it does not know costs no more than it must: an unknown mode is the one that lets
the least through, an unknown ``AppProtocol`` is carried as bytes, and only an object whose meaning hangs on the value
(``Action``, ``Resolution``) cannot be read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, get_args

from control.wire.governed import CONNECT_TIMEOUT


class Action(StrEnum):
    """What an AuthorizationPolicy does with what it matches. DENY is looked at first."""

    ALLOW = "ALLOW"
    DENY = "DENY"


class MtlsMode(StrEnum):
    """How plaintext from outside the mesh is met (PeerAuthentication)."""

    STRICT = "STRICT"
    """Refused."""
    PERMISSIVE = "PERMISSIVE"
    """Let in as policy says, through the agent."""
    DISABLE = "DISABLE"
    """None of the mesh's business."""

    @classmethod
    def _missing_(cls, value: object) -> MtlsMode:
        """Read a mode that this reader does not know as the one that lets nobody in."""
        return cls.STRICT


class EgressMode(StrEnum):
    """Where the processes of a workload may go (EgressPolicy)."""

    ALLOW_ANY = "ALLOW_ANY"
    """Anywhere."""
    REGISTRY_ONLY = "REGISTRY_ONLY"
    """To what the mesh's registry names, and to themselves (loopback)."""

    @classmethod
    def _missing_(cls, value: object) -> EgressMode:
        """Read a mode that this reader does not know as the one that lets nobody out."""
        return cls.REGISTRY_ONLY


class AppProtocol(StrEnum):
    """What a service port carries, as declared by its owner; never guessed."""

    TCP = "tcp"
    HTTP = "http"
    GRPC = "grpc"
    TLS = "tls"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selectors:
    """How the kernel's facts name the processes of a workload; one of them is set."""

    systemd_unit: str | None = None
    """A unit name, such as ``nginx.service``: the cgroup of that name anywhere below the agent's root."""
    cgroup_path: str | None = None
    """A path below the agent's cgroup root, such as ``/shop/web``; cgroups nested in it belong to it."""
    container_id: str | None = None
    """What a container runtime of the node calls it; of ids in hexadecimal the first 12 digits are enough."""
    container_labels: dict[str, str] = field(default_factory=dict)
    """Every container of the node that has all of these labels or annotations."""
    pod_uid: str | None = None
    """The UID of a Kubernetes pod: its cgroup, with all of its containers."""
    uid: int | None = None
    """Of the processes in those cgroups only those of this user: where several services share one."""

    @property
    def text(self) -> str:
        """For people."""
        return self._cgroups if self.uid is None else f"{self._cgroups} uid {self.uid}"

    @property
    def _cgroups(self) -> str:
        if self.container_id is not None:
            return f"container {self.container_id}"
        if self.container_labels:
            return f"containers {','.join(f'{key}={value}' for key, value in sorted(self.container_labels.items()))}"
        return f"pod {self.pod_uid}" if self.pod_uid is not None else self.systemd_unit or self.cgroup_path or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A group of processes with one identity on one node."""

    KIND: ClassVar[str] = "workload"
    uid: str
    """``<namespace>/<name>`` and the revision that created it: a name used again is another workload."""
    name: str
    namespace: str
    node: str
    identity: str
    """The SPIFFE ID that its SVID carries."""
    addresses: tuple[str, ...]
    """Canonical IP addresses by which the mesh knows it; shared by all workloads of a host network."""
    ports: tuple[int, ...]
    """Every port on which it may be reached through the mesh: its own and its services' target ports."""
    app_address: str | None = None
    """Where the node's agent connects to it, if not to the address itself (for example 127.0.0.1)."""
    selectors: Selectors
    policies: tuple[str, ...] = ()
    """uids of every AuthorizationPolicy that selects it (mesh, namespace and label selected)."""
    mtls_mode: MtlsMode = MtlsMode.PERMISSIVE
    """On every port but those of ``port_mtls_modes``."""
    port_mtls_modes: dict[str, MtlsMode] = field(default_factory=dict)
    """Port, in decimal -> mode."""
    probe_ports: tuple[int, ...] = ()
    """Where programs of the node itself that are in no workload get in as they are, also under STRICT: health
    checks."""
    egress_mode: EgressMode = EgressMode.ALLOW_ANY
    """A control that does not send it knows no egress policies."""
    egress_policy: str = ""
    """uid of the EgressPolicy that says so; empty: none does."""
    splice: bool = True
    """Whether its same-node flows may be joined in the kernel."""
    idle_timeout: int | None = None
    """Seconds after which a flow of it that carries nothing is reset; 0: never; None: it does not say."""
    sni: str
    """The server name by which agents ask for it where workloads share an address."""
    tunnel_port: int = 15008
    tunnel_addresses: tuple[str, ...] = ()
    """Where its node's agent takes tunnels, if the workload has addresses of its own; empty: at those."""
    labels: dict[str, str]
    canonical_service: str
    canonical_revision: str
    app: str
    version: str
    cluster: str
    service_account: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePort:
    """A port of a service; ``target_port`` is where its endpoints listen."""

    name: str
    port: int
    target_port: int
    protocol: AppProtocol = AppProtocol.TCP


class Resolution(StrEnum):
    """How the addresses of a service outside the mesh are found."""

    STATIC = "STATIC"
    """They are written down."""
    DNS = "DNS"
    """The agent looks names up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalEndpoint:
    """One place where a service outside the mesh is reached."""

    address: str
    """A canonical IP address; where names are looked up, perhaps a name."""
    ports: dict[str, int] = field(default_factory=dict)
    """Name of a port -> where it listens here, if not at the service's target port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class External:
    """What makes a service one outside the mesh: no workloads, no tunnel, no identity."""

    resolution: Resolution
    endpoints: tuple[ExternalEndpoint, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A name with virtual addresses before a set of workloads, or before something outside the mesh."""

    KIND: ClassVar[str] = "service"
    uid: str
    name: str
    namespace: str
    hostname: str
    addresses: tuple[str, ...]
    """Virtual IPs: captured by the agents, routed nowhere."""
    ports: tuple[ServicePort, ...]
    endpoints: tuple[str, ...]
    """uids of the workloads behind it, in stable order."""
    external: External | None = None
    """Set: it is outside the mesh (ServiceEntry), and ``hostname`` its own name there."""
    splice: bool = True
    """Whether same-node flows to it may be joined in the kernel."""
    idle_timeout: int | None = None
    """Seconds after which a flow to it that carries nothing is reset; 0: never; None: it does not say."""
    connect_timeout: int | None = None
    """Seconds in which a connection to a node that has endpoints of it must be made; None: it does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceMatch:
    """Who connects. Every list that is not empty must match; within a list one entry is enough.

    ``principals`` are ``<trust-domain>/ns/<ns>/sa/<sa>`` with at most one ``*`` at the start or the end.
    ``ip_blocks`` are CIDR prefixes or single addresses.
    """

    principals: tuple[str, ...] = ()
    not_principals: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    not_namespaces: tuple[str, ...] = ()
    ip_blocks: tuple[str, ...] = ()
    not_ip_blocks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationMatch:
    """What is connected to: the workload's own (target) port."""

    ports: tuple[int, ...] = ()
    not_ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRule:
    """Matches if one of ``sources`` (none given: anybody) and one of ``operations`` (none: any) match."""

    sources: tuple[SourceMatch, ...] = ()
    operations: tuple[OperationMatch, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationPolicy:
    """An L4 policy as the agents evaluate it; each workload names the policies that select it."""

    KIND: ClassVar[str] = "policy"
    uid: str
    name: str
    namespace: str
    action: Action
    rules: tuple[PolicyRule, ...]
    """No rule matches nothing: ALLOW without rules admits nobody, DENY without rules refuses nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustBundle:
    """The certificates that vouch for one trust domain. Bundles of different domains are never merged."""

    KIND: ClassVar[str] = "bundle"
    uid: str
    """The trust domain."""
    certificates: tuple[str, ...]
    """PEM, one certificate each; more than one while roots overlap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshSettings:
    """What holds for the mesh as a whole; there is one, and its uid is ``MESH_UID``."""

    KIND: ClassVar[str] = "mesh"
    uid: str
    domain: str
    """The DNS suffix of services: ``<service>.<namespace>.<domain>``. Every name below it is the mesh's to answer."""
    splice: bool = True
    """Whether same-node flows may be joined in the kernel at all; False wins over everything narrower."""
    idle_timeout: int = 0
    """Seconds after which a flow that carries nothing is reset, where nothing narrower says otherwise; 0: never."""
    connect_timeout: int = CONNECT_TIMEOUT
    """Seconds in which a connection to a node must be made, where the service does not say."""


MESH_UID = "mesh"

DiscoveryObject = TrustBundle | MeshSettings | AuthorizationPolicy | Workload | Service
"""In the order of a snapshot: what others refer to comes first."""

KINDS: dict[str, type[DiscoveryObject]] = {cls.KIND: cls for cls in get_args(DiscoveryObject)}
"""Kind name on the wire -> type."""
