"""What the handlers work on, put together by ``control.main``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, cast

from fastapi import Depends, Request

from control.api.throttle import Throttle
from control.ca.keys import Keys
from control.registry.registry import Registry
from control.registry.tokens import Tokens
from control.watch.hub import Hub

DEFAULT_SVID_LIFETIME = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The rooms behind the API, and its settings."""

    registry: Registry
    tokens: Tokens
    hub: Hub
    keys: Callable[[], Keys]
    """The CA's keys now: they change when the intermediate is renewed."""
    clock: Callable[[], float]
    """Wall clock, seconds since 1970."""
    cluster: str
    version: str
    svid_lifetime: float = DEFAULT_SVID_LIFETIME
    node_lifetime: float = DEFAULT_SVID_LIFETIME
    joins: Throttle = field(default_factory=Throttle)


def _context(request: Request) -> Context:
    return cast(Context, request.app.state.context)


Ctx = Annotated[Context, Depends(_context)]
