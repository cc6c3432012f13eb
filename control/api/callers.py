"""The caller of a request: a node, an operator, or an anonymous one, by the client certificate that TLS verified."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Request

from control.api.context import Ctx
from control.api.problems import Denied
from control.api.transport import PEER_KEY
from control.ca.peer import PeerIdentity, Role, identify
from control.kinds import node as nodes
from control.registry.errors import Missing
from control.wire.address import AddressError, canonical_ip


def caller(request: Request, context: Ctx) -> PeerIdentity:
    """Return the caller; Denied if its certificate has expired since the handshake."""
    der = cast(bytes | None, request.scope.get("extensions", {}).get(PEER_KEY, {}).get("certificate"))
    peer = identify(der, context.keys().trust_domain)
    if peer.expires <= context.clock():
        raise Denied(
            "the client certificate has expired since this connection was made; renew it and connect again", 401
        )
    return peer


def operator(peer: Annotated[PeerIdentity, Depends(caller)]) -> PeerIdentity:
    """Return the caller if it is an operator; Denied otherwise."""
    if peer.role is Role.OPERATOR:
        return peer
    raise _denied(
        peer, "an operator's certificate is needed; on the control host: NODEMESH_CREDENTIALS=<state-dir>/operator"
    )


def node(peer: Annotated[PeerIdentity, Depends(caller)], context: Ctx) -> PeerIdentity:
    """Return the caller if it is the agent of a node of the mesh; Denied otherwise."""
    if peer.role is not Role.NODE:
        raise _denied(peer, "a node's certificate is needed; nodes get theirs by joining with a token")
    if context.hub.catalogue.find(nodes.KIND, peer.name) is None:
        try:
            # The hub may be a moment behind what an operator has just applied.
            context.registry.get(nodes.KIND.name, "", peer.name)
        except Missing:
            raise Denied(f"there is no Node {peer.name!r} in the mesh (any more); apply it and join again") from None
    return peer


def _denied(peer: PeerIdentity, wanted: str) -> Denied:
    if peer.role is Role.ANONYMOUS:
        return Denied(f"no client certificate was presented; {wanted}", 401)
    who = peer.name if peer.role is Role.OTHER else f"you are {peer.role} {peer.name}"
    return Denied(f"{who}; {wanted}")


def address(request: Request) -> str:
    """The caller's address, canonical; for bounds, never for trust."""
    host = request.client.host if request.client else ""
    try:
        return canonical_ip(host.partition("%")[0])
    except AddressError:
        return host


Operator = Annotated[PeerIdentity, Depends(operator)]
NodeCaller = Annotated[PeerIdentity, Depends(node)]
