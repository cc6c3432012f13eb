"""The mesh that wire objects are projected for."""

from __future__ import annotations

from dataclasses import dataclass

from control.wire.ids import DEFAULT_DOMAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """What the objects on the wire say of the mesh as a whole."""

    trust_domain: str
    domain: str = DEFAULT_DOMAIN
    """The DNS suffix of services."""
    cluster: str
    roots: tuple[str, ...]
    """PEM, one certificate each."""
