"""Node: a host with one agent."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from control.kinds.base.cells import joined
from control.kinds.base.fields import MAX_ADDRESSES, MeshAddress, check_distinct
from control.kinds.base.kind import Kind, Section
from control.kinds.base.model import Model

RESERVED_NAMES = ("status",)
"""``/v1/nodes/status`` is a path of the API."""


class NodeSpec(Model):
    """A host with one agent."""

    addresses: Annotated[
        tuple[MeshAddress, ...], Field(min_length=1, max_length=MAX_ADDRESSES), AfterValidator(check_distinct)
    ]


def _name_fault(name: str) -> str | None:
    return f"{name!r} is reserved" if name in RESERVED_NAMES else None


KIND = Kind(
    name="Node",
    plural="nodes",
    aliases=("no",),
    doc="A host (or network namespace) with one agent.",
    order=20,
    spec=NodeSpec,
    namespaced=False,
    name_fault=_name_fault,
    addresses=lambda node: node.spec.addresses,
    columns=(("ADDRESSES", lambda o: joined(o["spec"]["addresses"])),),
    sections=(Section(title="agent", lines=lambda o, lookup: [lookup.agent(o["metadata"]["name"])]),),
)
