"""``Kind``: everything that control knows of one kind; ``View`` and ``Proposal``: the resources that it looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, Protocol, cast
from urllib.parse import quote

from pydantic import create_model

from control.kinds.base.fault import Fault
from control.kinds.base.mesh import Mesh
from control.kinds.base.model import API_VERSION, Key, Model, Resource, Spec
from control.kinds.base.relations import Object, ReferenceField, Selector

Column = tuple[str, Callable[[Object], str]]
"""(header, cell of a resource) of a table."""
TakeAddresses = Callable[[], tuple[str, str]]
"""Allocates one virtual address of each family."""


class WireObject(Protocol):
    """An object of ``control.wire`` that agents receive."""

    KIND: ClassVar[str]

    @property
    def uid(self) -> str: ...


class View(Protocol):
    """All resources at one revision; implemented by ``control.registry.catalogue``."""

    def get(self, key: Key) -> Resource[Any] | None:
        """The resource of that kind, namespace and name."""

    def find(self, kind: Kind[Spec], name: str, namespace: str = "") -> Resource[Spec] | None:
        """The resource of that name."""

    def of(self, kind: Kind[Spec], namespace: str | None = None) -> Sequence[Resource[Spec]]:
        """All resources of a kind (in a namespace), sorted by namespace and name."""

    def selecting(self, kind: Kind[Spec], target: Resource[Any]) -> list[Resource[Spec]]:
        """The resources of ``kind`` whose selector selects ``target``, sorted by namespace and name."""

    def selected(self, source: Resource[Any], kind: Kind[Spec]) -> list[Resource[Spec]]:
        """The resources of ``kind`` that the selector of ``source`` selects, sorted by namespace and name."""

    def virtual_addresses(self) -> Iterable[tuple[str, Resource[Any]]]:
        """Every virtual address with the resource that has it, by kind, namespace and name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """The resources as a request would leave them."""

    view: View
    origins: Mapping[Key, int]
    """The resources of the request -> their place in it."""
    domain: str
    """The DNS suffix of the mesh's own services."""

    def clash(self, one: Resource[Any], other: Resource[Any], field: str, why: str) -> Fault:
        """Blame the resource that the request changes; if it changes neither (a Service made them clash), the request's
        first."""
        if one.key not in self.origins and other.key in self.origins:
            one, other = other, one
        index = self.origins.get(one.key, min(self.origins.values(), default=0))
        return Fault(f"{one.subject} and {other.subject}: {why}", field, index, one.subject)


class Lookup(Protocol):
    """What a description may ask control for; implemented by ``meshctl``."""

    def trust_domain(self) -> str:
        """The trust domain of the mesh."""

    def agent(self, node: str) -> str:
        """The state of the node's agent, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the description of one resource."""

    title: str
    lines: Callable[[Object, Lookup], list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refinement:
    """Fields of another kind's wire object that this kind decides: a Service adds to the ports of a Workload."""

    of: type[Any]
    """The class of that wire object."""
    fields: Callable[[Resource[Any], View], Mapping[str, Any]]
    """From the resource that the object is projected from, to the fields to replace."""


def _accept_name(_: str) -> str | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind(Generic[Spec]):
    """One kind of resource. All that handles resources loops over these."""

    # --- its names and its model
    name: str
    plural: str
    """As it stands in paths of the API."""
    aliases: tuple[str, ...] = ()
    """Short names for ``meshctl``."""
    doc: str
    """What a resource of it is, for the API's description."""
    order: int
    """Its place wherever kinds are listed: lower numbers first, so that what others refer to precedes them."""
    spec: type[Spec]
    spec_required: bool = True
    """False: a resource without ``spec`` has its defaults."""
    status: type[Model] | None = None
    """Written by the server; what an operator sends is ignored."""
    namespaced: bool = True
    api_versions: tuple[str, ...] = (API_VERSION,)
    model: type[Resource[Spec]] = field(init=False)
    """The whole resource."""

    # --- what is refused
    name_fault: Callable[[str], str | None] = _accept_name
    """What is wrong with a name that is a DNS label, or None."""
    unsupported: Mapping[str, str] = field(default_factory=dict)
    """Fields of the shape's source that are not supported -> why, or what to write instead."""
    checks: tuple[Callable[[Proposal], Iterable[Fault]], ...] = ()
    """Rules between resources. A fault names a resource of the request."""
    flow_labels: bool = False
    """Whether labels of ``control.wire.governed`` mean something on its resources."""

    # --- how it relates to other kinds
    references: tuple[ReferenceField, ...] = ()
    selector: Selector | None = None
    addresses: Callable[[Resource[Spec]], tuple[str, ...]] | None = None
    """IP addresses at which hosts of the network answer."""
    virtual_addresses: Callable[[Resource[Spec]], tuple[str, ...]] | None = None
    """IP addresses that only the mesh routes; each belongs to one resource."""
    allocate: Callable[[Resource[Spec], TakeAddresses], Resource[Spec]] | None = None
    """Completes the status with virtual addresses; its input has the status that is stored."""

    # --- what agents receive
    wire: type[Any] | None = None
    """The class of the objects that it is projected to. Every agent receives all of them."""
    project: Callable[[Resource[Spec], View, Mesh], Iterable[WireObject]] | None = None
    """The objects that one resource becomes."""
    project_mesh: Callable[[View, Mesh], Iterable[WireObject]] | None = None
    """Objects that exist once a mesh, also without any resource."""
    refinements: tuple[Refinement, ...] = ()

    # --- what operators see
    columns: tuple[Column, ...] = ()
    """Of ``meshctl get``, between NAME and AGE."""
    wide: tuple[Column, ...] = ()
    """Further ones of ``meshctl get -o wide``."""
    sections: tuple[Section, ...] = ()
    """Of ``meshctl describe``, before those that follow from references and selectors."""
    remark: Callable[[Object], str] | None = None
    """Follows the name where the description of another resource lists it: ``(DENY)``, ``on node-a``."""

    def __post_init__(self) -> None:
        # Slots and frozen: the one way to set a field that follows from others.
        object.__setattr__(self, "model", self._make_model())

    def _make_model(self) -> type[Resource[Spec]]:
        fields: dict[str, Any] = {
            "kind": (Literal[self.name], self.name),
            "spec": (self.spec, ... if self.spec_required else self.spec()),
        }
        if self.status is not None:
            fields["status"] = (self.status | None, None)
        base = cast(type[Resource[Spec]], Resource.__class_getitem__(self.spec))
        return create_model(self.name, __base__=base, __doc__=self.doc, __module__=self.spec.__module__, **fields)

    def path(self, namespace: str, name: str) -> str:
        """The path of one resource in the API."""
        name = quote(name, safe="")
        if not self.namespaced:
            return f"/v1/{self.plural}/{name}"
        return f"/v1/namespaces/{quote(namespace, safe='')}/{self.plural}/{name}"
