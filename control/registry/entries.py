"""ServiceEntry: names outside the mesh that workloads may reach through it, in Istio's shape.

Source of the shape: istio.io/latest/docs/reference/config/networking/service-entry/, of which ``location:
MESH_EXTERNAL`` with ``resolution: STATIC`` or ``DNS`` is taken.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from control.registry.model import API_VERSION, Model, Name, Port, Resource
from control.registry.workloads import MeshAddress, check_distinct, check_mesh_address
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
    """Where a host is reached: an address, or another name (``resolution: DNS``)."""
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
    """Where the endpoints listen that name no port of their own; the same, if not given."""

    @property
    def app_protocol(self) -> AppProtocol:
        """As agents are told."""
        return _PROTOCOLS[self.protocol]


class EntryEndpoint(Model):
    """One place where the hosts are served; ``ports``: name of a port -> where it listens here."""

    address: Annotated[str, AfterValidator(check_endpoint)]
    ports: Annotated[dict[Name, Port], Field(max_length=MAX_PORTS)] = Field(default_factory=dict)

    @property
    def is_address(self) -> bool:
        """Whether nothing has to be looked up."""
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
        for what, values in (("port", [p.number for p in self.ports]), ("port name", [p.name for p in self.ports])):
            for index, value in enumerate(values):
                if value in values[:index]:
                    raise ValueError(f"{what} {value} is listed twice")
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


class ServiceEntry(Resource):
    """Services outside the mesh, by name."""

    KIND: ClassVar[str] = "ServiceEntry"
    PLURAL: ClassVar[str] = "serviceentries"
    API_VERSIONS: ClassVar[tuple[str, ...]] = (API_VERSION, *ISTIO_API_VERSIONS)

    kind: Literal["ServiceEntry"] = "ServiceEntry"
    spec: ServiceEntrySpec
    status: ServiceEntryStatus | None = None

    def addresses_of(self, host: str) -> tuple[str, ...]:
        """The host's virtual addresses."""
        return self.status.addresses.get(host, ()) if self.status is not None else ()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Of all hosts."""
        return tuple(address for host in self.spec.hosts for address in self.addresses_of(host))
