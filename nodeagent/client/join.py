"""How a node gets its own certificate: once with a token, then again and again with the certificate it has.

A token names the mesh's root by its hash. The bundle is fetched without knowing whom from; only the root of that hash
is believed, and only a server which that root and control's SPIFFE ID vouch for is sent the token.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from control.wire.ids import SpiffeIdError, check_trust_domain, control_id, node_id
from control.wire.signing import (
    JOIN_PATH,
    RENEW_PATH,
    TOKEN_PREFIX,
    TRUST_BUNDLE_PATH,
    JoinRequest,
    NodeCertificate,
    RenewRequest,
    TrustBundleAnswer,
)
from nodeagent.client.tls import control_context, unverified_context
from nodeagent.client.transport import ControlError, Transport
from nodeagent.identity.keys import SvidError, load_svid, new_request
from nodeagent.identity.tlsctx import BundleError

_TOKEN = re.compile(rf"{TOKEN_PREFIX}\.([^.\s]+)\.([^.\s]+)\.([0-9a-f]{{64}})")


class JoinError(Exception):
    """This node cannot become a member of the mesh; the text says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCredential:
    """Who this node is towards control, and whom it believes."""

    node: str
    trust_domain: str
    chain: str
    """PEM, leaf first."""
    key: str
    """PEM (PKCS#8), unencrypted: it lies in a directory of mode 0700."""
    roots: tuple[str, ...]

    def validity(self) -> tuple[datetime, datetime]:
        """From when until when the leaf is valid; SvidError if it cannot be read."""
        svid = load_svid(self.chain, self.key)
        return svid.not_before, svid.not_after

    def transport(self, url: str) -> Transport:
        """A way to talk to control as this node."""
        expected = control_id(self.trust_domain)
        return Transport(url, control_context(self.roots, expected, self.chain, self.key))


def token_pin(token: str) -> str:
    """The SHA-256 (hex) of the root certificate that a token names; JoinError if it is no token."""
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise JoinError(
            f"the join token is malformed (it looks like {TOKEN_PREFIX}.<id>.<secret>.<hash>); "
            "make a new one with 'meshctl token create --node NAME'"
        )
    return match.group(3)


def pinned_root(certificates: tuple[str, ...], pin: str) -> str:
    """The one certificate of the bundle whose DER has this hash; JoinError if there is none. The others are not
    believed."""
    for pem in certificates:
        try:
            der = x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)
        except ValueError:
            continue
        if hashlib.sha256(der).hexdigest() == pin:
            return pem
    raise JoinError(
        "the server at control's URL does not belong to the mesh that the join token was made for "
        "(no root certificate has the token's hash); check the URL, or make a new token"
    )


async def join(url: str, token: str, node: str, make_transport: Callable[..., Transport] = Transport) -> NodeCredential:
    """Spend the token; JoinError if it is not accepted, ControlError if control cannot be reached (try again)."""
    pin = token_pin(token)
    anybody = make_transport(url, unverified_context())
    try:
        bundle = await anybody.get(TRUST_BUNDLE_PATH, TrustBundleAnswer)
    finally:
        await anybody.aclose()
    root = pinned_root(bundle.certificates, pin)
    try:
        expected = control_id(check_trust_domain(bundle.trust_domain))
    except SpiffeIdError as error:
        raise JoinError(f"control names an impossible trust domain: {error}") from error
    request = new_request(node_id(bundle.trust_domain, node))
    transport = make_transport(url, control_context([root], expected))
    try:
        body = JoinRequest(token=token, csr=request.csr_pem, node=node)
        answer = await transport.post(JOIN_PATH, body, NodeCertificate)
    except ControlError as error:
        if error.refused:
            raise JoinError(str(error)) from error
        raise
    finally:
        await transport.aclose()
    return _credential(answer, request.key_pem, node, bundle.trust_domain)


async def renew(transport: Transport, credential: NodeCredential) -> NodeCredential:
    """A new certificate with a new key, asked for with the present one. ControlError or JoinError if it fails."""
    request = new_request(node_id(credential.trust_domain, credential.node))
    answer = await transport.post(RENEW_PATH, RenewRequest(csr=request.csr_pem), NodeCertificate)
    return _credential(answer, request.key_pem, credential.node, credential.trust_domain)


def _credential(answer: NodeCertificate, key: str, node: str, trust_domain: str) -> NodeCredential:
    if answer.node != node:
        raise JoinError(f"control says that this node is {answer.node!r}, the configuration says {node!r}; set 'node'")
    if answer.trust_domain != trust_domain:
        raise JoinError(f"control changed the trust domain from {trust_domain!r} to {answer.trust_domain!r}")
    credential = NodeCredential(
        node=node, trust_domain=trust_domain, chain=answer.chain, key=key, roots=answer.certificates
    )
    check_credential(credential)
    return credential


def check_credential(credential: NodeCredential) -> None:
    """Whether key, chain and roots belong together, are this node's, and can be loaded; JoinError if not."""
    try:
        svid = load_svid(credential.chain, credential.key)
        expected = node_id(credential.trust_domain, credential.node)
        if svid.identity != expected:
            raise JoinError(f"the node's certificate is that of {svid.identity}, expected {expected}")
        control_context(credential.roots, control_id(credential.trust_domain), credential.chain, credential.key)
    except (SvidError, BundleError, SpiffeIdError, OSError) as error:  # ssl.SSLError is an OSError
        raise JoinError(f"the node's certificate cannot be used: {error}") from error
