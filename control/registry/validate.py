"""Rules between resources. Pure: a catalogue as it would become, in; what is wrong with it, out.

A fault belongs to an object of the request that takes part in it, so that the operator is told about what they wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from control.registry.catalogue import Catalogue, Key
from control.registry.entries import ServiceEntry
from control.registry.errors import Fault
from control.registry.model import Resource
from control.registry.workloads import Workload
from control.wire import governed

Origins = Mapping[Key, int]
"""The objects of the request -> their place in it."""


def check(catalogue: Catalogue, origins: Origins, domain: str) -> list[Fault]:
    """Everything wrong between resources that the request would bring about, in the order of its objects. ``domain`` is
    the mesh's own.
    """
    faults = [
        *_placement(catalogue, origins),
        *_claims(catalogue, origins),
        *_selectors(catalogue, origins),
        *_service_addresses(catalogue, origins),
        *_hosts(catalogue, origins, domain),
        *_external_endpoints(catalogue, origins),
        *_labels(catalogue, origins),
    ]
    return sorted(faults, key=lambda fault: fault.index)


def check_removal(catalogue: Catalogue, removed: Mapping[Key, int]) -> list[Fault]:
    """What the catalogue (as it would be without them) still needs of the removed objects."""
    faults = []
    for (kind, _, name), index in removed.items():
        users = [w.ref for w in catalogue.workloads() if w.spec.node == name] if kind == "Node" else []
        if users:
            shown = ", ".join(users[:5]) + (f" and {len(users) - 5} more" if len(users) > 5 else "")
            message = f"workloads are placed on it: {shown}; delete them first, or in the same request"
            faults.append(Fault(message, "metadata.name", index, f"Node {name}"))
    return faults


def _placement(catalogue: Catalogue, origins: Origins) -> Iterable[Fault]:
    for workload in catalogue.workloads():
        if workload.key in origins and catalogue.node(workload.spec.node) is None:
            message = f"there is no Node {workload.spec.node!r}; apply it first, or in the same request"
            yield Fault(message, "spec.node", origins[workload.key], workload.subject)


def _claims(catalogue: Catalogue, origins: Origins) -> Iterable[Fault]:
    """One address and port belong to one workload: a connection to them must mean somebody."""
    claimed: dict[tuple[str, int], Workload] = {}
    for workload in catalogue.workloads():
        ports = catalogue.ports_of(workload)
        for address in catalogue.addresses_of(workload):
            for port in ports:
                other = claimed.setdefault((address, port), workload)
                if other is not workload:
                    yield _clash(workload, other, origins, "spec.ports", f"both claim {_endpoint(address, port)}")


def _selectors(catalogue: Catalogue, origins: Origins) -> Iterable[Fault]:
    """A process belongs to one workload."""
    seen: dict[tuple[str, str], Workload] = {}
    for workload in catalogue.workloads():
        text = workload.spec.selectors.text
        other = seen.setdefault((workload.spec.node, text), workload)
        if other is not workload:
            why = f"both select {text} on node {workload.spec.node}"
            yield _clash(workload, other, origins, "spec.selectors", why)


def _service_addresses(catalogue: Catalogue, origins: Origins) -> Iterable[Fault]:
    owners: dict[str, Resource] = {}
    for service in catalogue.named():
        for address in service.addresses:
            other = owners.setdefault(address, service)
            if other is not service:
                yield _clash(service, other, origins, "spec.addresses", f"both have the address {address}")
    reachable: dict[str, Resource] = {a: node for node in catalogue.nodes() for a in node.spec.addresses}
    reachable.update((a, workload) for workload in catalogue.workloads() for a in workload.spec.addresses)
    for address, owner in reachable.items():
        service_owner = owners.get(address)
        if service_owner is not None:
            why = f"both have the address {address}; a service's address is virtual and belongs to nothing else"
            yield _clash(service_owner, owner, origins, "spec.addresses", why)


def _hosts(catalogue: Catalogue, origins: Origins, domain: str) -> Iterable[Fault]:
    """A name means one thing: of the mesh, or of one entry."""
    own = {f"{service.name}.{service.namespace}.{domain}": service for service in catalogue.services()}
    owners: dict[str, ServiceEntry] = {}
    for entry in catalogue.service_entries():
        for host in entry.spec.hosts:
            other: Resource = owners.setdefault(host, entry)
            if other is not entry:
                yield _clash(entry, other, origins, "spec.hosts", f"both have the host {host}")
            elif host in own:
                yield _clash(entry, own[host], origins, "spec.hosts", f"both have the name {host}")
            elif (host == domain or host.endswith(f".{domain}")) and entry.key in origins:
                why = f"{host}: names below {domain} are the mesh's own; a Service has them"
                yield Fault(why, "spec.hosts", origins[entry.key], entry.subject)


def _external_endpoints(catalogue: Catalogue, origins: Origins) -> Iterable[Fault]:
    """What is outside the mesh is not reached at an address that leads into it."""
    virtual: dict[str, Resource] = {address: owner for owner in catalogue.named() for address in owner.addresses}
    for entry in catalogue.service_entries():
        for endpoint in entry.spec.endpoints:
            owner = virtual.get(endpoint.address)
            if owner is not None:
                why = f"endpoint {endpoint.address} is a virtual address, which leads nowhere outside the mesh"
                yield _clash(entry, owner, origins, "spec.endpoints", why)


_LABELS: Mapping[str, Callable[[str], object]] = {
    governed.SPLICE_LABEL: governed.switch,
    governed.DNS_LABEL: governed.switch,
    governed.CAPTURE_LABEL: governed.switch,
    governed.OLD_CONNECTIONS_LABEL: governed.old_connections,
    governed.IDLE_TIMEOUT_LABEL: governed.idle_timeout,
}
"""Labels of ours on workloads and services -> what reads them. Looked at when they are applied, never when what is
stored is read: an older control may have let others in.
"""


def _labels(catalogue: Catalogue, origins: Origins) -> Iterable[Fault]:
    """A mistyped label of ours would silently mean nothing."""
    for resource in (*catalogue.workloads(), *catalogue.named()):
        if resource.key not in origins:
            continue
        for label, text in resource.labels.items():
            if not label.startswith(governed.LABEL_PREFIX):
                continue
            reader, field, index = _LABELS.get(label), f"metadata.labels.{label}", origins[resource.key]
            if reader is None:
                known = ", ".join(_LABELS)
                yield Fault(f"labels of {governed.LABEL_PREFIX} are: {known}", field, index, resource.subject)
                continue
            try:
                reader(text)
            except ValueError as error:
                yield Fault(str(error), field, index, resource.subject)


def _clash(one: Resource, other: Resource, origins: Origins, field: str, why: str) -> Fault:
    """Blame the one that the request changes; if it changes neither (a service made them clash), the request's
    first."""
    if one.key not in origins and other.key in origins:
        one, other = other, one
    index = origins.get(one.key, min(origins.values(), default=0))
    return Fault(f"{one.subject} and {other.subject}: {why}", field, index, one.subject)


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
