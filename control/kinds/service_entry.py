"""ServiceEntry: names outside the mesh that workloads may reach through it, in Istio's shape.

Source of the shape: istio.io/latest/docs/reference/config/networking/service-entry/, of which ``location:
MESH_EXTERNAL`` with ``resolution: STATIC`` or ``DNS`` is taken.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from control.kinds import service
from control.kinds.base.cells import joined
from control.kinds.base.fault import Fault
from control.kinds.base.fields import MeshAddress, Name, Port, check_distinct, check_mesh_address, check_port_names
from control.kinds.base.flows import connect_timeout_of, idle_timeout_of
from control.kinds.base.kind import Kind, Proposal, TakeAddresses, View
from control.kinds.base.mesh import Mesh
from control.kinds.base.model import API_VERSION, Model, Resource
from control.kinds.base.relations import Object
from control.wire import discovery as wire
from control.wire.discovery import AppProtocol, Resolution

ISTIO_API_VERSIONS = ("networking.istio.io/v1", "networking.istio.io/v1beta1")
MAX_HOSTS = 256
MAX_ENDPOINTS = 256
MAX_PORTS = 64
MAX_HOST_CHARACTERS = 253
"""RFC 1035, 2.3.4, written with dots."""
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\Z")
_PROTOCOLS = {"TCP": AppProtocol.TCP, "TLS": AppProtocol.TLS, "HTTPS": AppProtocol.TLS, "HTTP": AppProtocol.HTTP}


def check_host(text: str) -> str:
    """A DNS name in its one spelling: lower case, no dot at the end."""
    host = text.lower().removesuffix(".")
    if "*" in host:
        raise ValueError(
            f"{text[:80]!r} is a wildcard: every host is given addresses of its own, so each has to be written out"
        )
    if _is_address(host):
        raise ValueError(f"{text[:80]!r} is an address; write the host's name here, and the address in endpoints")
    if not host.isascii():
        raise ValueError(f"{text[:80]!r}: write international names in their ASCII form (xn--...)")
    if len(host) > MAX_HOST_CHARACTERS or not all(_LABEL.match(label) for label in host.split(".")):
        raise ValueError(f"{text[:80]!r} is not a DNS name: labels of letters, digits, '-' and '_' with dots between")
    if host == "localhost" or host.endswith(".localhost"):
        raise ValueError(f"{text[:80]!r} is the program's own host: loopback is always reached directly")
    return host


def check_endpoint(text: str) -> str:
    """An address at which a host is reached, or another name (``resolution: DNS``)."""
    return check_mesh_address(text) if _is_address(text) else check_host(text)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


Host = Annotated[str, AfterValidator(check_host)]


class EntryPort(Model):
    """A port of the hosts. ``protocol`` says what it carries; bytes are passed on as they are, TLS too."""

    number: Port
    name: Name
    protocol: Literal["TCP", "TLS", "HTTP", "HTTPS"] = "TCP"
    target_port: Port | None = None
    """The port at endpoints that name none of their own; by default the same."""

    @property
    def app_protocol(self) -> AppProtocol:
        """As agents receive it."""
        return _PROTOCOLS[self.protocol]


class EntryEndpoint(Model):
    """One place where the hosts are served; ``ports``: name of a port -> where it listens here."""

    address: Annotated[str, AfterValidator(check_endpoint)]
    ports: Annotated[dict[Name, Port], Field(max_length=MAX_PORTS)] = Field(default_factory=dict)

    @property
    def is_address(self) -> bool:
        """Whether it needs no DNS lookup."""
        return _is_address(self.address)


class ServiceEntrySpec(Model):
    """Hosts outside the mesh, their ports, and how their addresses are found."""

    hosts: Annotated[tuple[Host, ...], Field(min_length=1, max_length=MAX_HOSTS), AfterValidator(check_distinct)]
    location: Literal["MESH_EXTERNAL"] = "MESH_EXTERNAL"
    resolution: Resolution
    ports: Annotated[tuple[EntryPort, ...], Field(min_length=1, max_length=MAX_PORTS)]
    endpoints: Annotated[tuple[EntryEndpoint, ...], Field(max_length=MAX_ENDPOINTS)] = ()
    """STATIC: the addresses. DNS: addresses or names to be looked up; none given: each host itself."""

    @model_validator(mode="after")
    def _ports_distinct(self) -> ServiceEntrySpec:
        check_port_names([port.number for port in self.ports], [port.name for port in self.ports])
        names = {port.name for port in self.ports}
        for endpoint in self.endpoints:
            unknown = next((name for name in endpoint.ports if name not in names), None)
            if unknown is not None:
                raise ValueError(f"endpoint {endpoint.address} names a port {unknown!r} that is not in spec.ports")
        return self

    @model_validator(mode="after")
    def _endpoints_can_be_reached(self) -> ServiceEntrySpec:
        if self.resolution is not Resolution.STATIC:
            return self
        if not self.endpoints:
            raise ValueError("resolution STATIC needs endpoints with addresses; write them, or resolution: DNS")
        named = next((endpoint.address for endpoint in self.endpoints if not endpoint.is_address), None)
        if named is not None:
            raise ValueError(f"endpoint {named!r} is a name, and resolution STATIC looks nothing up; write DNS")
        return self


class ServiceEntryStatus(Model):
    """Written by the server; ignored where an operator sends it."""

    addresses: dict[Host, tuple[MeshAddress, ...]] = Field(default_factory=dict)
    """Host -> its virtual addresses."""


def addresses_of(entry: Resource[ServiceEntrySpec], host: str) -> tuple[str, ...]:
    """The virtual addresses of one of its hosts."""
    status = entry.status_of(ServiceEntryStatus)
    return status.addresses.get(host, ()) if status is not None else ()


def _all_addresses(entry: Resource[ServiceEntrySpec]) -> tuple[str, ...]:
    return tuple(address for host in entry.spec.hosts for address in addresses_of(entry, host))


def _allocate(entry: Resource[ServiceEntrySpec], take: TakeAddresses) -> Resource[ServiceEntrySpec]:
    addresses = {host: addresses_of(entry, host) or take() for host in entry.spec.hosts}
    return entry.model_copy(update={"status": ServiceEntryStatus(addresses=addresses)})


def _check_hosts(proposal: Proposal) -> Iterable[Fault]:
    """A name means one thing: a service of the mesh, or a host of one entry."""
    domain = proposal.domain
    own = {service.hostname(each, domain): each for each in proposal.view.of(service.KIND)}
    owners: dict[str, Resource[ServiceEntrySpec]] = {}
    for entry in proposal.view.of(KIND):
        for host in entry.spec.hosts:
            other = owners.setdefault(host, entry)
            if other is not entry:
                yield proposal.clash(entry, other, "spec.hosts", f"both have the host {host}")
            elif host in own:
                yield proposal.clash(entry, own[host], "spec.hosts", f"both have the name {host}")
            elif (host == domain or host.endswith(f".{domain}")) and entry.key in proposal.origins:
                why = f"{host}: names below {domain} are the mesh's own; a Service has them"
                yield Fault(why, "spec.hosts", proposal.origins[entry.key], entry.subject)


def _check_endpoints(proposal: Proposal) -> Iterable[Fault]:
    """A host outside the mesh is not reached at an address that leads into it."""
    virtual = dict(proposal.view.virtual_addresses())
    for entry in proposal.view.of(KIND):
        for endpoint in entry.spec.endpoints:
            owner = virtual.get(endpoint.address)
            if owner is not None:
                why = f"endpoint {endpoint.address} is a virtual address, which leads nowhere outside the mesh"
                yield proposal.clash(entry, owner, "spec.endpoints", why)


def _project(entry: Resource[ServiceEntrySpec], _: View, __: Mesh) -> Iterable[wire.Service]:
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
            addresses=addresses_of(entry, host),
            ports=ports,
            endpoints=(),
            external=wire.External(
                resolution=entry.spec.resolution, endpoints=endpoints or (wire.ExternalEndpoint(address=host),)
            ),
            splice=False,
            idle_timeout=idle_timeout_of(entry.labels),
            connect_timeout=connect_timeout_of(entry.labels),
        )


def _ports_cell(document: Object) -> str:
    return joined(f"{port['number']}/{port.get('protocol', 'TCP').lower()}" for port in document["spec"]["ports"])


def _addresses_cell(document: Object) -> str:
    given = ((document.get("status") or {}).get("addresses") or {}).values()
    return joined(address for addresses in given for address in addresses)


KIND = Kind(
    name="ServiceEntry",
    plural="serviceentries",
    aliases=("se", "entry", "entries"),
    doc="Services outside the mesh, by name.",
    order=50,
    spec=ServiceEntrySpec,
    status=ServiceEntryStatus,
    api_versions=(API_VERSION, *ISTIO_API_VERSIONS),
    unsupported={
        "workloadSelector": (
            "workloads of the mesh are selected by a Service; a ServiceEntry is of what is outside of it"
        ),
        "subjectAltNames": "bytes are passed on as they are: the program itself verifies the server's certificate",
        "exportTo": "a ServiceEntry is known to the whole mesh; an EgressPolicy says who may leave it",
    },
    checks=(_check_hosts, _check_endpoints),
    flow_labels=True,
    virtual_addresses=_all_addresses,
    allocate=_allocate,
    wire=wire.Service,
    project=_project,
    columns=(
        ("HOSTS", lambda o: joined(o["spec"]["hosts"])),
        ("PORTS", _ports_cell),
        ("RESOLUTION", lambda o: str(o["spec"]["resolution"])),
    ),
    wide=(
        ("ADDRESSES", _addresses_cell),
        ("ENDPOINTS", lambda o: joined(e["address"] for e in o["spec"].get("endpoints") or ())),
    ),
)
