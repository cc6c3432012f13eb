"""The node's view of the mesh: batches go in, whole; the questions of a connection are answered by dict lookups.

What could not be read counts as not received: a workload is gone, a policy is missing (and denies all it selects), an
endpoint is counted in ``ServiceTarget.missing``. The former version of an unreadable object is never used.
"""

from __future__ import annotations

from itertools import islice
from typing import TypeVar

from control.wire.address import SocketAddress
from control.wire.discovery import (
    MESH_UID,
    AuthorizationPolicy,
    DiscoveryObject,
    MeshSettings,
    Service,
    ServicePort,
    TrustBundle,
    Workload,
)
from control.wire.watch import Batch
from nodeagent.reasons import Reason
from nodeagent.state.accept import Key, accept
from nodeagent.state.index import Index
from nodeagent.state.targets import (
    Applied,
    ExternalTarget,
    MissingPolicy,
    ServiceTarget,
    Unresolved,
    WorkloadTarget,
    external_sockets,
)

T = TypeVar("T", Workload, Service, AuthorizationPolicy, TrustBundle, MeshSettings)

MAX_LISTED = 10
"""Names or ports that a message lists."""


class OutOfOrderError(Exception):
    """A delta that does not follow what was applied: a defect of the sender. Ask for a snapshot."""


class _Indexes:
    """Everything that is derived from the objects."""

    def __init__(self) -> None:
        self.by_ip: Index[str, Workload] = Index()
        self.by_socket: Index[SocketAddress, Workload] = Index()
        self.by_sni: Index[str, Workload] = Index()
        self.by_name: Index[tuple[str, str], Workload] = Index()
        self.by_node: Index[str, Workload] = Index()
        self.vips: Index[SocketAddress, tuple[Service, ServicePort]] = Index()
        self.vip_hosts: Index[str, Service] = Index()
        self.services_of: Index[str, Service] = Index()
        self.by_hostname: Index[str, Service] = Index()
        self.externals: Index[SocketAddress, tuple[Service, ServicePort]] = Index()

    def add_workload(self, workload: Workload) -> None:
        uid = workload.uid
        self.by_ip.add(workload.addresses, uid, workload)
        self.by_socket.add(_sockets(workload), uid, workload)
        self.by_sni.add((workload.sni.lower(),), uid, workload)
        self.by_name.add(((workload.namespace, workload.name),), uid, workload)
        self.by_node.add((workload.node,), uid, workload)

    def remove_workload(self, workload: Workload) -> None:
        uid = workload.uid
        self.by_ip.remove(workload.addresses, uid)
        self.by_socket.remove(_sockets(workload), uid)
        self.by_sni.remove((workload.sni.lower(),), uid)
        self.by_name.remove(((workload.namespace, workload.name),), uid)
        self.by_node.remove((workload.node,), uid)

    def add_service(self, service: Service) -> None:
        for port in service.ports:
            keys = [SocketAddress(ip, port.port) for ip in service.addresses]
            self.vips.add(keys, service.uid, (service, port))
        self.vip_hosts.add(service.addresses, service.uid, service)
        self.services_of.add(service.endpoints, service.uid, service)
        self.by_hostname.add((service.hostname.lower(),), service.uid, service)
        for address, port in external_sockets(service):
            self.externals.add((address,), service.uid, (service, port))

    def remove_service(self, service: Service) -> None:
        self.vips.remove(_vips(service), service.uid)
        self.vip_hosts.remove(service.addresses, service.uid)
        self.services_of.remove(service.endpoints, service.uid)
        self.by_hostname.remove((service.hostname.lower(),), service.uid)
        self.externals.remove((address for address, _ in external_sockets(service)), service.uid)


def _sockets(workload: Workload) -> list[SocketAddress]:
    return [SocketAddress(ip, port) for ip in workload.addresses for port in workload.ports]


def _vips(service: Service) -> list[SocketAddress]:
    return [SocketAddress(ip, port.port) for ip in service.addresses for port in service.ports]


class NodeState:
    """What this node was told, at one revision. One writer (``apply``); answers are frozen wire objects."""

    def __init__(self) -> None:
        self._ready = False
        self._revision = 0
        self._instance = ""
        self._workloads: dict[str, Workload] = {}
        self._services: dict[str, Service] = {}
        self._policies: dict[str, AuthorizationPolicy] = {}
        self._bundles: dict[str, TrustBundle] = {}
        self._meshes: dict[str, MeshSettings] = {}
        self._unreadable: set[Key] = set()
        self._index = _Indexes()
        # answers already put together, dropped when the service or one of its endpoints changes
        self._targets: dict[SocketAddress, ServiceTarget | ExternalTarget] = {}

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
        return not any(kind in ("workload", "service") for kind, _ in self._unreadable)

    def missing(self) -> tuple[str, ...]:
        """What is referred to and was never received, at most MAX_LISTED items; nothing where control told all.

        Objects that came but cannot be read are not named: to be sent them again would change nothing.
        """
        wanted = (("policy", uid) for workload in self._workloads.values() for uid in workload.policies)
        named = (("workload", uid) for service in self._services.values() for uid in service.endpoints)
        absent = (
            key
            for table, keys in ((self._policies, wanted), (self._workloads, named))
            for key in keys
            if key[1] not in table and key not in self._unreadable
        )
        return tuple(f"{kind} {uid}" for kind, uid in islice(dict.fromkeys(absent), MAX_LISTED))

    def apply(self, batch: Batch) -> Applied:
        """Take a batch in, whole. OutOfOrderError (and nothing changed) for a delta that cannot follow."""
        self._check_order(batch)
        accepted = accept(batch.changes)
        updates: dict[Key, DiscoveryObject | None] = dict(accepted.objects)
        if batch.snapshot:
            for key in self._keys():
                updates.setdefault(key, None)
        changed = frozenset(key for key, value in updates.items() if self._update(key, value))
        self._unreadable = (set() if batch.snapshot else self._unreadable - updates.keys()) | accepted.unreadable
        self._ready = True
        self._revision = batch.revision
        self._instance = batch.instance
        return Applied(changed, accepted.rejected, batch.snapshot)

    def _check_order(self, batch: Batch) -> None:
        if batch.snapshot:
            return
        if not self._ready:
            raise OutOfOrderError(f"a delta (revision {batch.revision}) came before any snapshot")
        if batch.instance != self._instance:
            raise OutOfOrderError(f"a delta of history {batch.instance!r} cannot follow one of {self._instance!r}")
        if batch.revision < self._revision:
            raise OutOfOrderError(f"a delta of revision {batch.revision} came after revision {self._revision}")

    def _keys(self) -> list[Key]:
        keys = [("workload", uid) for uid in self._workloads]
        keys += [("service", uid) for uid in self._services]
        keys += [("policy", uid) for uid in self._policies]
        keys += [("bundle", uid) for uid in self._bundles]
        keys += [("mesh", uid) for uid in self._meshes]
        return keys

    def _update(self, key: Key, value: DiscoveryObject | None) -> bool:
        kind, uid = key
        if kind == "workload":
            return self._update_workload(uid, value if isinstance(value, Workload) else None)
        if kind == "service":
            return self._update_service(uid, value if isinstance(value, Service) else None)
        if kind == "policy":
            return _put(self._policies, uid, value if isinstance(value, AuthorizationPolicy) else None)
        if kind == "mesh":
            return _put(self._meshes, uid, value if isinstance(value, MeshSettings) else None)
        return _put(self._bundles, uid, value if isinstance(value, TrustBundle) else None)

    def _update_workload(self, uid: str, new: Workload | None) -> bool:
        old = self._workloads.get(uid)
        if not _put(self._workloads, uid, new):
            return False
        if old is not None:
            self._index.remove_workload(old)
        if new is not None:
            self._index.add_workload(new)
        for service in self._index.services_of.all(uid):
            self._forget_targets(service)
        return True

    def _update_service(self, uid: str, new: Service | None) -> bool:
        old = self._services.get(uid)
        if not _put(self._services, uid, new):
            return False
        if old is not None:
            self._index.remove_service(old)
            self._forget_targets(old)
        if new is not None:
            self._index.add_service(new)
            self._forget_targets(new)
        return True

    def _forget_targets(self, service: Service) -> None:
        for address in _vips(service):
            self._targets.pop(address, None)

    def resolve(self, destination: SocketAddress) -> ServiceTarget | ExternalTarget | WorkloadTarget | Unresolved:
        """Where a connection to ``destination`` (canonical) leads. A service's address goes before a workload's, and
        that before one outside the mesh.
        """
        target = self._targets.get(destination)
        if target is not None:
            return target
        vip = self._index.vips.only(destination)
        if vip is not None:
            target = self._targets[destination] = self._service_target(*vip)
            return target
        workload = self._index.by_socket.only(destination)
        if workload is not None and not self._index.vips.all(destination):
            return WorkloadTarget(workload, destination.port)
        outside = self._index.externals.all(destination)
        if outside and not self._index.vips.all(destination) and not self._index.by_socket.all(destination):
            service, port = min(outside, key=lambda found: found[0].uid)  # several names may share a server
            return ExternalTarget(service, port, destination)
        return self._unresolved(destination)

    def _service_target(self, service: Service, port: ServicePort) -> ServiceTarget | ExternalTarget:
        if service.external is not None:
            return ExternalTarget(service, port, None)
        endpoints = tuple(self._workloads[uid] for uid in service.endpoints if uid in self._workloads)
        return ServiceTarget(service, port, endpoints, len(service.endpoints) - len(endpoints))

    def _unresolved(self, destination: SocketAddress) -> Unresolved:
        if not self._ready:
            return Unresolved(Reason.NOT_READY, f"{destination}: no state from control yet")
        claims = [service.uid for service, _ in self._index.vips.all(destination)]
        claims = claims or [workload.uid for workload in self._index.by_socket.all(destination)]
        if claims:
            names = ", ".join(claims[:MAX_LISTED])
            return Unresolved(Reason.UNKNOWN_DESTINATION, f"{destination} belongs to several at once: {names}")
        services = self._index.vip_hosts.all(destination.ip)
        workloads = self._index.by_ip.all(destination.ip)
        ports = {port.port for service in services for port in service.ports}
        ports |= {port for workload in workloads for port in workload.ports}
        owners = [service.uid for service in services] + [workload.uid for workload in workloads]
        names = ", ".join(owners[:MAX_LISTED])
        if not names:
            return Unresolved(Reason.UNKNOWN_DESTINATION, f"nothing in the mesh has the address {destination.ip}")
        listed = ", ".join(str(port) for port in sorted(ports)[:MAX_LISTED]) or "none"
        return Unresolved(
            Reason.UNKNOWN_DESTINATION, f"{names}: no port {destination.port} at {destination.ip} (ports: {listed})"
        )

    def unreadable(self, kind: str) -> bool:
        """Whether anything of a kind was received that cannot be read."""
        return any(found == kind for found, _ in self._unreadable)

    def service(self, uid: str) -> Service | None:
        """The service of that uid."""
        return self._services.get(uid)

    def workload(self, uid: str) -> Workload | None:
        """The workload of that uid."""
        return self._workloads.get(uid)

    def workloads(self) -> tuple[Workload, ...]:
        """All workloads that this node knows."""
        return tuple(self._workloads.values())

    def services(self) -> tuple[Service, ...]:
        """All services that this node knows."""
        return tuple(self._services.values())

    def policies(self) -> tuple[AuthorizationPolicy, ...]:
        """All policies that this node knows."""
        return tuple(self._policies.values())

    def local_workloads(self, node: str) -> tuple[Workload, ...]:
        """Workloads placed on the node."""
        return self._index.by_node.all(node)

    def identities_on(self, node: str) -> frozenset[str]:
        """SPIFFE IDs of the workloads placed on the node: those for which it needs SVIDs."""
        return frozenset(workload.identity for workload in self.local_workloads(node))

    def by_sni(self, name: str) -> Workload | None:
        """The workload that a server name asks for (any case); None if none, or not exactly one."""
        return self._index.by_sni.only(name.lower())

    def by_address_port(self, address: SocketAddress) -> Workload | None:
        """The workload that alone serves that address and port; None if none, or several share it (SNI decides)."""
        return self._index.by_socket.only(address)

    def by_namespace_name(self, namespace: str, name: str) -> Workload | None:
        """The workload of that name; None if none, or not exactly one."""
        return self._index.by_name.only((namespace, name))

    def service_before(self, workload: Workload, port: int) -> Service | None:
        """A service that leads to this port of the workload: what a connection to the workload's own address counts
        for. Of several the one of the lowest uid, so that both ends name the same; None if there is none."""
        found = self._index.services_of.all(workload.uid)
        leading = [service for service in found if any(p.target_port == port for p in service.ports)]
        return min(leading, key=lambda service: service.uid, default=None)

    def by_hostname(self, hostname: str) -> Service | None:
        """The service of that name (any case); None if none, or not exactly one."""
        return self._index.by_hostname.only(hostname.lower())

    def owners(self, ip: str) -> tuple[Workload, ...]:
        """Workloads with that address (several on a host network)."""
        return self._index.by_ip.all(ip)

    def owns(self, workload: Workload, ip: str) -> bool:
        """Whether the mesh gives the address to the workload as it is known now."""
        current = self._workloads.get(workload.uid)
        return current is not None and ip in current.addresses

    def bundle(self, trust_domain: str) -> TrustBundle | None:
        """The roots of a trust domain."""
        return self._bundles.get(trust_domain)

    @property
    def settings(self) -> MeshSettings | None:
        """What holds for the mesh as a whole; None if it was not received or could not be read."""
        return self._meshes.get(MESH_UID)

    def policies_of(self, workload: Workload) -> tuple[AuthorizationPolicy, ...] | MissingPolicy:
        """Every policy that selects the workload as it is known now, or what of it has not arrived."""
        current = self._workloads.get(workload.uid)
        if current is None:
            return MissingPolicy(())
        policies = self._policies
        try:
            return tuple([policies[uid] for uid in current.policies])
        except KeyError:
            return MissingPolicy(tuple(uid for uid in current.policies if uid not in policies))

    def statistics(self) -> dict[str, int]:
        """Sizes, for ``/debug``."""
        return {
            "revision": self._revision,
            "workloads": len(self._workloads),
            "services": len(self._services),
            "policies": len(self._policies),
            "bundles": len(self._bundles),
        }


def _put(table: dict[str, T], uid: str, value: T | None) -> bool:
    """Set or take away; whether that made a difference."""
    if table.get(uid) == value:
        return False
    if value is None:
        del table[uid]
    else:
        table[uid] = value
    return True
