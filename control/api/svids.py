"""SVIDs: for nodes, and only for identities of workloads placed on them."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool

from control.api.callers import NodeCaller
from control.api.context import Ctx
from control.api.problems import Denied
from control.ca.authority import read_csr
from control.kinds.base.fault import Fault
from control.kinds.workload import identities_of
from control.registry.errors import Invalid
from control.wire.ids import SpiffeId, SpiffeIdError
from control.wire.signing import SVID_PATH, SvidAnswer, SvidRequest

router = APIRouter(tags=["nodes"])


@router.post(SVID_PATH)
async def sign(body: SvidRequest, peer: NodeCaller, context: Ctx) -> SvidAnswer:
    """The SVID of a workload identity that is placed on the calling node."""
    key = read_csr(body.csr)
    keys = context.keys()
    try:
        identity = SpiffeId.parse(body.identity)
    except SpiffeIdError as error:
        raise Invalid([Fault(str(error), "identity")]) from error
    allowed = identities_of(context.hub.catalogue, peer.name, keys.trust_domain)
    if str(identity) not in allowed:
        # The hub may be a moment behind what an operator has just applied.
        fresh = await run_in_threadpool(context.registry.catalogue)
        allowed = identities_of(fresh, peer.name, keys.trust_domain)
    if str(identity) not in allowed:
        raise Denied(f"no workload with the identity {identity} is placed on node {peer.name}")
    return SvidAnswer(chain=keys.authority.issue(identity, key, context.clock(), context.svid_lifetime))
