"""All resources at one revision, immutable, and the facts that follow from several of them together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from control.registry.entries import ServiceEntry
from control.registry.meshconfig import MESH_CONFIG_NAME, MeshConfig
from control.registry.model import Resource
from control.registry.policies import AuthorizationPolicy, EgressPolicy, LabelSelector, PeerAuthentication
from control.registry.services import Service
from control.registry.workloads import Node, Workload

R = TypeVar("R", bound=Resource)
Key = tuple[str, str, str]
"""(kind, namespace, name)."""
Label = tuple[str, str, str]
"""(namespace, label, value)."""


def matches(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether all the wanted labels are there."""
    return all(labels.get(key) == value for key, value in wanted.items())


def selects(selector: LabelSelector | None, labels: Mapping[str, str]) -> bool:
    """As ``matches``; no selector selects all."""
    return selector is None or matches(selector.match_labels, labels)


class Catalogue:
    """Resources by key. ``revision`` is the store's when it was read."""

    def __init__(self, resources: Iterable[Resource], revision: int) -> None:
        self.revision = revision
        self._by_key: dict[Key, Resource] = {resource.key: resource for resource in resources}
        self._sorted: dict[str, list[Resource]] = {}
        for key in sorted(self._by_key):
            self._sorted.setdefault(key[0], []).append(self._by_key[key])
        self._services_by_label: dict[Label, list[Service]] = {}
        self._workloads_by_label: dict[Label, list[Workload]] = {}
        for service in self.services():
            # Whoever a selector selects has each of its labels, so looking it up by one of them is enough.
            label, value = min(service.spec.selector.items())
            self._services_by_label.setdefault((service.namespace, label, value), []).append(service)
        for workload in self.workloads():
            for label, value in workload.labels.items():
                self._workloads_by_label.setdefault((workload.namespace, label, value), []).append(workload)

    def with_changes(self, put: Iterable[Resource], removed: Iterable[Key] = ()) -> Catalogue:
        """Another catalogue, as it would be."""
        resources = dict(self._by_key)
        for key in removed:
            resources.pop(key, None)
        resources.update((resource.key, resource) for resource in put)
        return Catalogue(resources.values(), self.revision)

    def get(self, key: Key) -> Resource | None:
        """The resource of that kind, namespace and name."""
        return self._by_key.get(key)

    def of(self, cls: type[R], namespace: str | None = None) -> list[R]:
        """All of a kind, by namespace and name."""
        found = self._sorted.get(cls.KIND, ())
        return [r for r in found if isinstance(r, cls) and namespace in (None, r.namespace)]

    def nodes(self) -> list[Node]:
        return self.of(Node)

    def workloads(self) -> list[Workload]:
        return self.of(Workload)

    def services(self) -> list[Service]:
        return self.of(Service)

    def named(self) -> tuple[Service | ServiceEntry, ...]:
        """Whatever has virtual addresses."""
        return (*self.services(), *self.service_entries())

    def service_entries(self) -> list[ServiceEntry]:
        return self.of(ServiceEntry)

    def policies(self) -> list[AuthorizationPolicy]:
        return self.of(AuthorizationPolicy)

    def peer_authentications(self) -> list[PeerAuthentication]:
        return self.of(PeerAuthentication)

    def egress_policies(self) -> list[EgressPolicy]:
        return self.of(EgressPolicy)

    def mesh_config(self) -> MeshConfig | None:
        """What holds in the whole mesh, if an operator said anything about that."""
        found = self._by_key.get((MeshConfig.KIND, "", MESH_CONFIG_NAME))
        return found if isinstance(found, MeshConfig) else None

    def node(self, name: str) -> Node | None:
        """The node of that name."""
        found = self._by_key.get((Node.KIND, "", name))
        return found if isinstance(found, Node) else None

    def services_of(self, workload: Workload) -> list[Service]:
        """The services that the workload stands behind."""
        found = [
            service
            for label, value in workload.labels.items()
            for service in self._services_by_label.get((workload.namespace, label, value), ())
            if matches(service.spec.selector, workload.labels)
        ]
        return sorted(found, key=lambda service: service.name)

    def workloads_of(self, service: Service) -> list[Workload]:
        """The workloads behind the service, by name."""
        label, value = min(service.spec.selector.items())
        candidates = self._workloads_by_label.get((service.namespace, label, value), ())
        return [w for w in candidates if matches(service.spec.selector, w.labels)]

    def addresses_of(self, workload: Workload) -> tuple[str, ...]:
        """Its own addresses, or else its node's."""
        if workload.spec.addresses:
            return workload.spec.addresses
        node = self.node(workload.spec.node)
        return node.spec.addresses if node else ()

    def tunnel_addresses_of(self, workload: Workload) -> tuple[str, ...]:
        """Its node's addresses, if it has others: those of a container need not be routed between nodes."""
        node = self.node(workload.spec.node)
        if node is None or set(workload.spec.addresses) <= set(node.spec.addresses):
            return ()
        return node.spec.addresses

    def ports_of(self, workload: Workload) -> tuple[int, ...]:
        """Its own ports and its services' target ports."""
        targets = {port.target for service in self.services_of(workload) for port in service.spec.ports}
        return tuple(sorted(targets.union(workload.spec.ports)))
