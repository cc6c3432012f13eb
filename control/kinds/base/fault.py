"""One mistake in a request, in the operator's own words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with one object of a request."""

    message: str
    field: str = ""
    """Its path, such as ``spec.rules[0].from[0].source.principals[1]``; empty: the object as a whole."""
    index: int = 0
    """Which object of the request, from 0."""
    subject: str = ""
    """The object, such as ``Workload shop/web-0``; empty if even that cannot be read."""

    def __str__(self) -> str:
        where = ": ".join(part for part in (self.subject, self.field) if part)
        return f"{where}: {self.message}" if where else self.message
