"""Join tokens, for operators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field

from control.api.callers import Operator
from control.api.context import Ctx
from control.kinds.base.fields import Name
from control.registry.tokens import DEFAULT_TTL, MAX_TTL, MIN_TTL, Token

router = APIRouter(prefix="/v1/tokens", tags=["tokens"])


class TokenRequest(BaseModel):
    """For which node, and for how many seconds."""

    model_config = ConfigDict(extra="forbid")

    node: Name
    ttl: float = Field(default=DEFAULT_TTL, ge=MIN_TTL, le=MAX_TTL, allow_inf_nan=False)


class TokenAnswer(BaseModel):
    """The token itself is shown this once."""

    id: str
    node: str
    expires: float
    """Wall clock, seconds since 1970."""
    token: str


class TokenList(BaseModel):
    """Without secrets."""

    items: list[Token]


@router.post("", status_code=201)
def create(body: TokenRequest, context: Ctx, _: Operator) -> TokenAnswer:
    """Make a token with which the node can join, once."""
    made, text = context.tokens.create(body.node, context.keys().fingerprint, body.ttl)
    return TokenAnswer(id=made.id, node=made.node, expires=made.expires, token=text)


@router.get("")
def read(context: Ctx, _: Operator) -> TokenList:
    """All tokens that are remembered, used ones too."""
    return TokenList(items=context.tokens.list())


@router.delete("/{identifier}", status_code=204)
def revoke(identifier: Annotated[str, Path(max_length=64)], context: Ctx, _: Operator) -> None:
    """Forget a token; nobody can join with it any more."""
    context.tokens.revoke(identifier)
