"""Joining: the trust bundle for anyone, a node certificate for a token, a new one for an old one. Formats:
``control.wire.signing``."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from control.api.callers import NodeCaller, address
from control.api.context import Context, Ctx
from control.api.problems import TooManyFailuresError
from control.ca.authority import PublicKey, read_csr
from control.registry.errors import TokenRefused
from control.wire.ids import node_id
from control.wire.signing import (
    JOIN_PATH,
    RENEW_PATH,
    TRUST_BUNDLE_PATH,
    JoinRequest,
    NodeCertificate,
    RenewRequest,
    TrustBundleAnswer,
)

router = APIRouter(tags=["nodes"])


@router.get(TRUST_BUNDLE_PATH)
async def trust_bundle(context: Ctx) -> TrustBundleAnswer:
    """The mesh's trust domain and roots. Anyone may ask."""
    keys = context.keys()
    return TrustBundleAnswer(trust_domain=keys.trust_domain, certificates=keys.roots)


@router.post(JOIN_PATH)
async def join(body: JoinRequest, request: Request, context: Ctx) -> NodeCertificate:
    """Trade a one-time token for a node certificate. Too many failures from one address must wait."""
    source = address(request)
    wait = context.joins.wait_needed(source, context.clock())
    if wait:
        raise TooManyFailuresError(f"too many failed joins from {source}; wait {wait:.0f} s", wait)
    # Before the token is spent: a bad request must not cost it.
    key = read_csr(body.csr)
    try:
        node = await run_in_threadpool(context.tokens.redeem, body.token, body.node)
    except TokenRefused:
        context.joins.failed(source, context.clock())
        raise
    return _certificate(context, node, key)


@router.post(RENEW_PATH)
async def renew(body: RenewRequest, peer: NodeCaller, context: Ctx) -> NodeCertificate:
    """A new certificate for the calling node."""
    return _certificate(context, peer.name, read_csr(body.csr))


def _certificate(context: Context, node: str, key: PublicKey) -> NodeCertificate:
    keys = context.keys()
    identity = node_id(keys.trust_domain, node)
    chain = keys.authority.issue(identity, key, context.clock(), context.node_lifetime)
    return NodeCertificate(node=node, chain=chain, trust_domain=keys.trust_domain, certificates=keys.roots)
