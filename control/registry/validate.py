"""Rules between resources: those that hold for every kind, and the checks of each kind.

Pure: a catalogue as it would become, in; what is wrong with it, out.

A fault belongs to an object of the request that takes part in it, so that operators read about what they wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from control.kinds.base.fault import Fault
from control.kinds.base.kind import Kind, Proposal
from control.kinds.base.model import Key, Resource
from control.kinds.base.relations import ReferenceField
from control.kinds.known import KINDS
from control.registry.catalogue import Catalogue
from control.wire import governed

MAX_SHOWN = 5
"""Resources that one message names."""


def check(catalogue: Catalogue, origins: Mapping[Key, int], domain: str) -> list[Fault]:
    """Everything wrong between resources that the request would bring about, in the order of its objects.

    Args:
        catalogue: the resources as the request would leave them.
        origins: the keys of the request's objects -> their place in it.
        domain: the DNS suffix of the mesh's own services.
    """
    proposal = Proposal(view=catalogue, origins=origins, domain=domain)
    faults = [*_references(proposal)]
    for kind in KINDS:
        for rule in kind.checks:
            faults += rule(proposal)
    faults += [*_addresses(proposal), *_labels(proposal)]
    return sorted(faults, key=lambda fault: fault.index)


def check_removal(catalogue: Catalogue, removed: Mapping[Key, int]) -> list[Fault]:
    """The removed objects that resources of the catalogue (as it would be without them) refer to."""
    faults: list[Fault] = []
    for kind in KINDS:
        for reference in kind.references:
            wanted = {key: index for key, index in removed.items() if key[0] == reference.kind}
            if wanted:
                faults += _still_used(catalogue, kind, reference, wanted)
    return sorted(faults, key=lambda fault: fault.index)


def _still_used(
    catalogue: Catalogue, kind: Kind[Any], reference: ReferenceField, removed: Mapping[Key, int]
) -> Iterable[Fault]:
    users: dict[Key, dict[str, None]] = {}
    for resource in catalogue.of(kind):
        for _, namespace, name in reference.targets(resource, resource.namespace):
            key = (reference.kind, namespace, name)
            if key in removed:
                users.setdefault(key, {})[resource.ref] = None
    for key, refs_in_order in users.items():
        refs = list(refs_in_order)
        more = f" and {len(refs) - MAX_SHOWN} more" if len(refs) > MAX_SHOWN else ""
        shown = ", ".join(refs[:MAX_SHOWN]) + more
        message = f"{reference.in_use}: {shown}; delete them first, or in the same request"
        yield Fault(message, "metadata.name", removed[key], subject(key))


def subject(key: Key) -> str:
    """As errors name a resource that may not exist: ``Workload shop/web-0``."""
    kind, namespace, name = key
    return f"{kind} {namespace + '/' if namespace else ''}{name}"


def _references(proposal: Proposal) -> Iterable[Fault]:
    for key, index in proposal.origins.items():
        resource = proposal.view.get(key)
        if resource is None:
            continue
        for reference in KINDS[resource.kind].references:
            for path, namespace, name in reference.targets(resource, resource.namespace):
                if proposal.view.get((reference.kind, namespace, name)) is None:
                    ref = f"{namespace}/{name}" if namespace else name
                    message = f"there is no {reference.kind} {ref!r}; apply it first, or in the same request"
                    yield Fault(message, path, index, resource.subject)


def _addresses(proposal: Proposal) -> Iterable[Fault]:
    """A virtual address belongs to one resource, and is no address of a host."""
    owners: dict[str, Resource[Any]] = {}
    for address, resource in proposal.view.virtual_addresses():
        other = owners.setdefault(address, resource)
        if other is not resource:
            yield proposal.clash(resource, other, "spec.addresses", f"both have the address {address}")
    hosts = {
        address: resource
        for kind in KINDS
        if kind.addresses is not None
        for resource in proposal.view.of(kind)
        for address in kind.addresses(resource)
    }
    for address, owner in hosts.items():
        virtual = owners.get(address)
        if virtual is not None:
            why = f"both have the address {address}; a service's address is virtual and belongs to nothing else"
            yield proposal.clash(virtual, owner, "spec.addresses", why)


_LABELS: Mapping[str, Callable[[str], object]] = {
    governed.SPLICE_LABEL: governed.switch,
    governed.DNS_LABEL: governed.switch,
    governed.CAPTURE_LABEL: governed.switch,
    governed.OLD_CONNECTIONS_LABEL: governed.old_connections,
    governed.IDLE_TIMEOUT_LABEL: governed.idle_timeout,
    governed.CONNECT_TIMEOUT_LABEL: governed.connect_timeout,
}
"""Labels of ours -> what reads them. Checked when they are applied, never when stored resources are read: an older
control may have accepted others.
"""


_OF_SERVICES: Final = frozenset({governed.CONNECT_TIMEOUT_LABEL})


def _labels(proposal: Proposal) -> Iterable[Fault]:
    """A mistyped label of ours would silently mean nothing."""
    for key, index in proposal.origins.items():
        resource = proposal.view.get(key)
        if resource is None or not KINDS[resource.kind].flow_labels:
            continue
        for label, text in resource.labels.items():
            if not label.startswith(governed.LABEL_PREFIX):
                continue
            reader, field = _LABELS.get(label), f"metadata.labels.{label}"
            if reader is None:
                known = ", ".join(_LABELS)
                yield Fault(f"labels of {governed.LABEL_PREFIX} are: {known}", field, index, resource.subject)
                continue
            if label in _OF_SERVICES and KINDS[resource.kind].virtual_addresses is None:
                why = "services have this label; on a workload it means nothing"
                yield Fault(why, field, index, resource.subject)
                continue
            try:
                reader(text)
            except ValueError as error:
                yield Fault(str(error), field, index, resource.subject)
