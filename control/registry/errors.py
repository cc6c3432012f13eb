"""Why the registry says no. Every refusal names objects and fields in the operator's own words."""

from __future__ import annotations

from dataclasses import dataclass

from control.store.base import UnavailableError

StorageError = UnavailableError
"""The medium below failed; for rooms that do not know the store."""


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


class Refusal(Exception):  # noqa: N818 (what happened, said to an operator)
    """The request was not carried out; nothing was changed."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(str(fault) for fault in faults))
        self.faults = faults


class Invalid(Refusal):
    """An object breaks a rule of its own or one between objects."""


class Stale(Refusal):
    """An object has changed since the ``resourceVersion`` that the request names."""


class Missing(Refusal):
    """What was asked for does not exist."""


class TokenRefused(Exception):  # noqa: N818 (as above)
    """A join token is unknown, expired, used, or for nobody; the message may be shown to whoever presents it."""
