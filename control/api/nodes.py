"""What control has seen of the nodes' agents."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from control.api.callers import Operator
from control.api.context import Ctx

router = APIRouter(tags=["nodes"])


class NodeState(BaseModel):
    """One node's agent, as seen since control started."""

    node: str
    watching: bool
    last_seen: float | None
    """When it was last sent something: wall clock, seconds since 1970; null: never."""
    revision: int | None
    """The last revision that was sent to it."""


class NodeStates(BaseModel):
    """All nodes, and the newest revision to compare with."""

    revision: int
    items: list[NodeState]


@router.get("/v1/nodes/status")
async def status(context: Ctx, _: Operator) -> NodeStates:
    """When each node's agent was last heard of, and how far it is."""
    hub = context.hub
    return NodeStates(
        revision=hub.revision,
        items=[
            NodeState(node=s.node, watching=s.watching > 0, last_seen=s.last_seen, revision=s.revision)
            for s in hub.statuses()
        ],
    )
