"""How resources relate: by a field that names another resource (``ReferenceField``) or by labels (``Selector``).

Both are declared by the path of a field, as people write it, and read from resources (by the registry and the
projection) and from JSON documents (by ``meshctl``) alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any

from pydantic.alias_generators import to_snake

from control.wire.ids import ROOT_NAMESPACE

Labels = Mapping[str, str]
Object = dict[str, Any]
"""A resource as JSON, as the API serves it."""


@cache
def _steps(field: str) -> tuple[tuple[str, str, bool], ...]:
    """(name in JSON, attribute, whether it is a list) of each step of ``spec.rules[].backendRefs[]``."""
    names = [(part.removesuffix("[]"), part.endswith("[]")) for part in field.split(".")]
    return tuple((name, to_snake(name), many) for name, many in names)


def read(root: Any, field: str) -> Iterator[tuple[str, Any]]:
    """(path, value) of each value at ``field`` that is set; ``root`` is a resource or a document."""
    found: list[tuple[str, Any]] = [("", root)]
    for name, attribute, many in _steps(field):
        step: list[tuple[str, Any]] = []
        for path, value in found:
            inner = value.get(name) if isinstance(value, Mapping) else getattr(value, attribute, None)
            where = f"{path}.{name}".removeprefix(".")
            if many:
                step += [(f"{where}[{index}]", item) for index, item in enumerate(inner or ())]
            elif inner is not None:
                step.append((where, inner))
        found = step
    return iter(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceField:
    """A field that names a resource of another kind.

    A request that leaves a reference without its resource is refused. ``meshctl describe`` lists the referring
    resources of a resource.
    """

    field: str
    """Its path, such as ``spec.node`` or ``spec.rules[].backendRefs[]``. It holds a name, or an object with ``name``
    and, if it may name another namespace, ``namespace``."""
    kind: str
    """The kind of the resource that it names."""
    namespaced: bool = True
    """Whether that kind has namespaces."""
    in_use: str
    """Why a resource that is named cannot be deleted: ``workloads are placed on it``."""
    section: str
    """The title of the referring resources in the description of the named one: ``workloads on it``."""

    def targets(self, resource: Any, namespace: str) -> Iterator[tuple[str, str, str]]:
        """(path, namespace, name) of each resource that is named; ``namespace`` is the referring resource's."""
        for path, value in read(resource, self.field):
            name, given = (
                next((v for _, v in read(value, "name")), value),
                next((v for _, v in read(value, "namespace")), None),
            )
            yield path, (given or namespace) if self.namespaced else "", str(name)


class Reach(StrEnum):
    """In which namespaces a selector looks."""

    NAMESPACE = "namespace"
    """In its own."""
    ROOT = "root"
    """In its own; from the root namespace in all."""
    ROOT_DEFAULT = "root default"
    """In its own; from the root namespace in all, if it names no labels: it then holds for the mesh."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """A field with labels that select resources of another kind; no labels select all."""

    field: str = "spec.selector.matchLabels"
    kind: str = "Workload"
    reach: Reach = Reach.ROOT
    section: str
    """The title of the selecting resources in the description of a selected one: ``policies that select it``."""

    def wanted(self, root: Any) -> Labels:
        """The labels that a resource (or document) selects by."""
        return next((labels for _, labels in read(root, self.field)), {})

    def spans(self, namespace: str, wanted: Labels) -> bool:
        """Whether such a selector of that namespace looks in every namespace."""
        if self.reach is Reach.NAMESPACE or namespace != ROOT_NAMESPACE:
            return False
        return self.reach is Reach.ROOT or not wanted

    def selects(self, namespace: str, wanted: Labels, other: str, labels: Labels) -> bool:
        """Whether it selects a resource of the namespace ``other`` with these labels."""
        return (namespace == other or self.spans(namespace, wanted)) and matches(wanted, labels)


def matches(wanted: Labels, labels: Labels) -> bool:
    """Whether ``labels`` hold all the wanted ones."""
    return wanted.items() <= labels.items()
