"""Resources -> discovery objects. Pure: the same catalogue gives the same objects, whatever came before.

Each kind projects its own resources, and refines the objects of others (a Service adds to a Workload's ports).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from control.kinds.base.kind import Kind, Refinement, View, WireObject
from control.kinds.base.mesh import Mesh
from control.kinds.base.model import Resource
from control.kinds.known import KINDS
from control.wire.discovery import KINDS as WIRE_KINDS
from control.wire.discovery import TrustBundle

Objects = dict[tuple[str, str], WireObject]
"""(kind on the wire, uid) -> object."""


def project(view: View, mesh: Mesh) -> Objects:
    """Every object that agents receive of these resources."""
    refinements: dict[type[Any], list[Refinement]] = {}
    for kind in KINDS:
        for refinement in kind.refinements:
            refinements.setdefault(refinement.of, []).append(refinement)
    made: list[WireObject] = [TrustBundle(uid=mesh.trust_domain, certificates=mesh.roots)]
    for kind in sorted(KINDS, key=_wire_order):
        if kind.project_mesh is not None:
            made += kind.project_mesh(view, mesh)
        if kind.project is not None:
            applicable = refinements.get(kind.wire, ()) if kind.wire is not None else ()
            for resource in view.of(kind):
                made += (_refine(item, resource, view, applicable) for item in kind.project(resource, view, mesh))
    return {(item.KIND, item.uid): item for item in made}


def _wire_order(kind: Kind[Any]) -> int:
    known = list(WIRE_KINDS.values())
    return known.index(kind.wire) if kind.wire in known else len(known)


def _refine(made: WireObject, resource: Resource[Any], view: View, refinements: Iterable[Refinement]) -> WireObject:
    fields: dict[str, Any] = {}
    for refinement in refinements:
        fields.update(refinement.fields(resource, view))
    refined: WireObject = replace(made, **fields) if fields else made  # type: ignore[type-var]
    return refined
