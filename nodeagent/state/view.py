"""The node's view of the mesh: batches go in, whole; dict lookups answer the questions of a connection.

What could not be read counts as not received: a workload is gone, a policy is missing (and denies all it selects), an
endpoint is counted in ``ServiceTarget.missing``. The former version of an unreadable object is never used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from control.wire.address import SocketAddress
from control.wire.discovery import (
    MESH_UID,
    AuthorizationPolicy,
    MeshSettings,
    Service,
    ServicePort,
    TrustBundle,
    Workload,
)
from control.wire.watch import Batch
from nodeagent.reasons import Reason
from nodeagent.state.accept import Key
from nodeagent.state.intake import Intake, OutOfOrderError
from nodeagent.state.recent import RecentChanges
from nodeagent.state.tables import Tables
from nodeagent.state.targets import (
    Applied,
    ExternalTarget,
    MissingPolicy,
    ServiceTarget,
    Unresolved,
    WorkloadTarget,
    external_sockets,
)
from nodeagent.steps import at_once

MAX_LISTED = 10
"""Names or ports that a message lists."""


class NodeState:
    """What control sent, at one revision. One writer (``apply``, or ``Intake``); answers are frozen wire objects."""

    def __init__(self) -> None:
        self._ready = False
        self._revision = 0
        self._instance = ""
        self._tables = Tables()
        self.recent = RecentChanges()
        """For readers that keep something derived from this."""
        self.unknown: Counter[str] = Counter()
        """Values of fields that this version does not know and does without, as often as they were read."""

    @property
    def ready(self) -> bool:
        """Whether a snapshot was applied: before that nothing is known and nothing may be assumed."""
        return self._ready

    @property
    def revision(self) -> int:
        """The revision of the last batch."""
        return self._revision

    @property
    def instance(self) -> str:
        """The history that ``revision`` counts; empty before the first snapshot."""
        return self._instance

    @property
    def complete(self) -> bool:
        """Whether every workload and service that control told of could be read.

        While one could not, what is captured must not shrink: its processes and its address are still in the mesh.
        """
        kinds = self._tables.unreadable_kinds
        return not (kinds.get("workload") or kinds.get("service"))

    def missing(self) -> tuple[str, ...]:
        """What is referred to and was never received, at most MAX_LISTED items; nothing where control sent all.

        Objects that came but cannot be read are not named: to be sent them again would change nothing.
        """
        return self._tables.missing(MAX_LISTED)

    def apply(self, batch: Batch) -> Applied:
        """Apply a batch at once. Raise OutOfOrderError (and change nothing) for a delta that cannot follow.

        ``Intake`` does the same in steps, for a loop that must not stand still.
        """
        intake = Intake(self, batch)
        at_once(intake.read(batch.changes))
        return at_once(intake.commit())

    @property
    def tables(self) -> Tables:
        """What is in force; for ``Intake`` alone."""
        return self._tables

    def switch(self, tables: Tables, batch: Batch, changed: Collection[Key]) -> None:
        """From now on answer from these tables, at the batch's revision; for ``Intake`` alone."""
        self._tables = tables
        self.recent.add(changed)
        self._ready = True
        self._revision = batch.revision
        self._instance = batch.instance

    def check_order(self, batch: Batch) -> None:
        """Raise OutOfOrderError if the batch cannot follow the last one that was applied."""
        if batch.snapshot:
            return
        if not self._ready:
            raise OutOfOrderError(f"a delta (revision {batch.revision}) came before any snapshot")
        if batch.instance != self._instance:
            raise OutOfOrderError(f"a delta of history {batch.instance!r} cannot follow one of {self._instance!r}")
        if batch.revision < self._revision:
            raise OutOfOrderError(f"a delta of revision {batch.revision} came after revision {self._revision}")

    def resolve(self, destination: SocketAddress) -> ServiceTarget | ExternalTarget | WorkloadTarget | Unresolved:
        """Where a connection to ``destination`` (canonical) leads. A service's address goes before a workload's, and
        that before one outside the mesh.
        """
        target = self._tables.targets.get(destination)
        if target is not None:
            return target
        tables = self._tables
        services = tables.vips.all(destination)
        if len(services) == 1:
            service = tables.services[services[0]]
            target = tables.targets[destination] = self._service_target(service, _port(service, destination.port))
            return target
        workload = tables.by_socket.only(destination)
        if workload is not None and not services:
            return WorkloadTarget(tables.workloads[workload], destination.port)
        outside = tables.externals.all(destination)
        if outside and not services and not tables.by_socket.all(destination):
            service = tables.services[min(outside)]  # several names may share a server
            *_, port = (port for address, port in external_sockets(service) if address == destination)
            return ExternalTarget(service, port, destination)
        return self._unresolved(destination)

    def _service_target(self, service: Service, port: ServicePort) -> ServiceTarget | ExternalTarget:
        if service.external is not None:
            return ExternalTarget(service, port, None)
        endpoints = tuple(self._tables.workloads[uid] for uid in service.endpoints if uid in self._tables.workloads)
        return ServiceTarget(service, port, endpoints, len(service.endpoints) - len(endpoints))

    def _unresolved(self, destination: SocketAddress) -> Unresolved:
        if not self._ready:
            return Unresolved(Reason.NOT_READY, f"{destination}: no state from control yet")
        tables = self._tables
        claims = tables.vips.all(destination) or tables.by_socket.all(destination)
        if claims:
            names = ", ".join(claims[:MAX_LISTED])
            return Unresolved(Reason.UNKNOWN_DESTINATION, f"{destination} belongs to several at once: {names}")
        services = tables.vip_hosts.all(destination.ip)
        workloads = tables.by_ip.all(destination.ip)
        ports = {port.port for uid in services for port in tables.services[uid].ports}
        ports |= {port for uid in workloads for port in tables.workloads[uid].ports}
        names = ", ".join((services + workloads)[:MAX_LISTED])
        if not names:
            return Unresolved(Reason.UNKNOWN_DESTINATION, f"nothing in the mesh has the address {destination.ip}")
        listed = ", ".join(str(port) for port in sorted(ports)[:MAX_LISTED]) or "none"
        return Unresolved(
            Reason.UNKNOWN_DESTINATION, f"{names}: no port {destination.port} at {destination.ip} (ports: {listed})"
        )

    def unreadable(self, kind: str) -> bool:
        """Whether anything of a kind was received that cannot be read."""
        return bool(self._tables.unreadable_kinds.get(kind))

    def service(self, uid: str) -> Service | None:
        """The service of that uid."""
        return self._tables.services.get(uid)

    def workload(self, uid: str) -> Workload | None:
        """The workload of that uid."""
        return self._tables.workloads.get(uid)

    def workloads(self) -> tuple[Workload, ...]:
        """All workloads that this node knows."""
        return tuple(self._tables.workloads.values())

    def services(self) -> tuple[Service, ...]:
        """All services that this node knows."""
        return tuple(self._tables.services.values())

    def policies(self) -> tuple[AuthorizationPolicy, ...]:
        """All policies that this node knows."""
        return tuple(self._tables.policies.values())

    def local_workloads(self, node: str) -> tuple[Workload, ...]:
        """Workloads placed on the node."""
        return self._workloads_of(self._tables.by_node.all(node))

    def identities_on(self, node: str) -> frozenset[str]:
        """SPIFFE IDs of the workloads placed on the node: those for which it needs SVIDs."""
        return frozenset(workload.identity for workload in self.local_workloads(node))

    def by_sni(self, name: str) -> Workload | None:
        """The workload that a server name asks for (any case); None if none, or not exactly one."""
        return self._workload_of(self._tables.by_sni.only(name.lower()))

    def by_address_port(self, address: SocketAddress) -> Workload | None:
        """The workload that alone serves that address and port; None if none, or several share it (SNI decides)."""
        return self._workload_of(self._tables.by_socket.only(address))

    def by_namespace_name(self, namespace: str, name: str) -> Workload | None:
        """The workload of that name; None if none, or not exactly one."""
        return self._workload_of(self._tables.by_name.only((namespace, name)))

    def by_identity(self, identity: str) -> Workload | None:
        """The workload that alone has this SPIFFE ID; None if none, or several share it."""
        return self._workload_of(self._tables.by_identity.only(identity))

    def service_before(self, workload: Workload, port: int) -> Service | None:
        """A service that leads to this port of the workload: what a connection to the workload's own address counts
        for. Of several the one of the lowest uid, so that both ends name the same; None if there is none."""
        services = self._tables.services
        found = [services[uid] for uid in self._tables.services_of.all(workload.uid)]
        leading = [service for service in found if any(p.target_port == port for p in service.ports)]
        return min(leading, key=lambda service: service.uid, default=None)

    def by_hostname(self, hostname: str) -> Service | None:
        """The service of that name (any case); None if none, or not exactly one."""
        uid = self._tables.by_hostname.only(hostname.lower())
        return None if uid is None else self._tables.services[uid]

    def owners(self, ip: str) -> tuple[Workload, ...]:
        """Workloads with that address (several on a host network)."""
        return self._workloads_of(self._tables.by_ip.all(ip))

    def _workload_of(self, uid: str | None) -> Workload | None:
        return None if uid is None else self._tables.workloads[uid]

    def _workloads_of(self, uids: tuple[str, ...]) -> tuple[Workload, ...]:
        workloads = self._tables.workloads
        return tuple([workloads[uid] for uid in uids])

    def owns(self, workload: Workload, ip: str) -> bool:
        """Whether the mesh gives the address to the workload as it is known now."""
        current = self._tables.workloads.get(workload.uid)
        return current is not None and ip in current.addresses

    def bundle(self, trust_domain: str) -> TrustBundle | None:
        """The roots of a trust domain."""
        return self._tables.bundles.get(trust_domain)

    @property
    def settings(self) -> MeshSettings | None:
        """What holds for the mesh as a whole; None if it was not received or could not be read."""
        return self._tables.meshes.get(MESH_UID)

    def policies_of(self, workload: Workload) -> tuple[AuthorizationPolicy, ...] | MissingPolicy:
        """Every policy that selects the workload as it is known now, or what of it has not arrived."""
        current = self._tables.workloads.get(workload.uid)
        if current is None:
            return MissingPolicy(())
        policies = self._tables.policies
        try:
            return tuple([policies[uid] for uid in current.policies])
        except KeyError:
            return MissingPolicy(tuple(uid for uid in current.policies if uid not in policies))

    def statistics(self) -> dict[str, int]:
        """Sizes, for ``/debug``."""
        return {
            "revision": self._revision,
            "workloads": len(self._tables.workloads),
            "services": len(self._tables.services),
            "policies": len(self._tables.policies),
            "bundles": len(self._tables.bundles),
            "unknown_values": self.unknown.total(),
        }


def _port(service: Service, port: int) -> ServicePort:
    *_, found = (item for item in service.ports if item.port == port)
    return found
