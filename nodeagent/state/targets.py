"""Answers of the read model, as values: absence always has a reason."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass

from control.wire.address import SocketAddress
from control.wire.discovery import Resolution, Service, ServicePort, Workload
from nodeagent.reasons import Reason


@dataclass(frozen=True, slots=True)
class ServiceTarget:
    """A service's virtual address and port, and the workloads behind it.

    ``endpoints`` may be empty (nothing is selected, or nothing of it has arrived): the caller says NO_ENDPOINT, and
    still knows the service for its records.
    """

    service: Service
    port: ServicePort
    endpoints: tuple[Workload, ...]
    missing: int
    """Endpoints that the service names and this node does not hold (not received, or unreadable)."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a service outside the mesh is reached."""

    host: str
    """An address, or a name that is looked up."""
    port: int


@dataclass(frozen=True, slots=True)
class ExternalTarget:
    """A port of a service outside the mesh (``service.external`` is set): asked for by its virtual address, or by one
    of its own.
    """

    service: Service
    port: ServicePort
    direct: SocketAddress | None
    """The one of its own; it leads there and nowhere else."""

    @property
    def places(self) -> tuple[Place, ...]:
        """Where it can be reached."""
        if self.direct is not None:
            return (Place(self.direct.ip, self.direct.port),)
        endpoints = self.service.external.endpoints if self.service.external is not None else ()
        return tuple(Place(e.address, e.ports.get(self.port.name, self.port.target_port)) for e in endpoints)


@dataclass(frozen=True, slots=True)
class WorkloadTarget:
    """A workload's own address and one of its ports."""

    workload: Workload
    port: int


@dataclass(frozen=True, slots=True)
class Unresolved:
    """The mesh has nothing at that address, or does not know yet."""

    reason: Reason
    detail: str


Target = ServiceTarget | ExternalTarget | WorkloadTarget


@dataclass(frozen=True, slots=True)
class MissingPolicy:
    """A workload is selected by policies that are not here: what they say is unknown, so nobody may connect."""

    uids: tuple[str, ...]
    """The missing policies; empty if the workload itself is not known, and so what selects it is not either."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What a batch did."""

    changed: Set[tuple[str, str]]
    """(kind, uid) of every object that is new, different or gone, in the order of the batch."""
    rejected: tuple[str, ...]
    """Items that could not be read, in words, bounded in number; each counts as not received."""
    snapshot: bool


def external_sockets(service: Service) -> Iterator[tuple[SocketAddress, ServicePort]]:
    """The addresses and ports outside the mesh that are written down for a service (STATIC); none for others."""
    if service.external is None or service.external.resolution is not Resolution.STATIC:
        return
    for endpoint in service.external.endpoints:
        for port in service.ports:
            yield SocketAddress(endpoint.address, endpoint.ports.get(port.name, port.target_port)), port
