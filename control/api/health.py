"""Liveness and readiness, and what control itself is doing."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from control.api.callers import Operator
from control.api.context import Ctx
from control.api.problems import Problem, answer
from control.kinds.known import KINDS

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """All is well."""

    status: str


class ControlStatus(BaseModel):
    """What control is and where it stands."""

    version: str
    trustDomain: str  # noqa: N815 (JSON spelling)
    cluster: str
    revision: int
    instance: str
    roots: int
    signingCertificateExpires: float  # noqa: N815
    """Wall clock, seconds since 1970."""
    resources: dict[str, int]
    """Kind -> how many."""


@router.get("/healthz")
async def healthz() -> Health:
    """The process answers."""
    return Health(status="ok")


@router.get("/readyz", response_model=Health, responses={503: {"model": Problem}})
async def readyz(context: Ctx) -> JSONResponse | Health:
    """Agents can be served."""
    return Health(status="ready") if context.hub.ready else answer(503, "the store has not been read yet")


@router.get("/v1/status")
def status(context: Ctx, _: Operator) -> ControlStatus:
    """What control is and where it stands."""
    catalogue, keys = context.hub.catalogue, context.keys()
    return ControlStatus(
        version=context.version,
        trustDomain=keys.trust_domain,
        cluster=context.cluster,
        revision=context.hub.revision,
        instance=context.hub.instance,
        roots=len(keys.roots),
        signingCertificateExpires=keys.authority.expires,
        resources={kind.name: len(catalogue.of(kind)) for kind in KINDS},
    )
