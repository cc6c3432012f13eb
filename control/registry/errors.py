"""Why the registry refuses a request. Every refusal names objects and fields in the operator's own words."""

from __future__ import annotations

from control.kinds.base.fault import Fault
from control.store.base import UnavailableError

StorageError = UnavailableError
"""The medium below failed; for rooms that do not know the store."""


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
    """An object of the request does not exist."""


class TokenRefused(Exception):  # noqa: N818 (as above)
    """A join token is unknown, expired, used, or for another node; the message may be shown to its presenter."""
