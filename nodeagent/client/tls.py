"""TLS towards control: its certificate must chain to the mesh's roots *and* carry control's SPIFFE ID.

Host names play no part: control may move, and a name proves nothing that the SPIFFE ID does not. The ID is checked as
a part of the handshake, before a byte of a request (a join token, say) can leave.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime

from control.wire.ids import SpiffeId
from nodeagent.identity.spiffe import PeerCertificateError, check_peer_chain
from nodeagent.identity.tlsctx import check_bundle


def control_context(roots: Sequence[str], expected: SpiffeId, chain: str = "", key: str = "") -> ssl.SSLContext:
    """A client context that trusts ``roots`` (PEM) and talks to ``expected`` alone; ``chain`` and ``key`` (PEM) say
    who we are.

    ValueError or OSError (``ssl.SSLError`` is one) if the PEM cannot be used.
    """
    check_bundle(roots)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags &= ~ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata="\n".join(roots))
    context.sslobject_class = _expecting(expected)
    if chain:
        _load_key_and_chain(context, chain, key)
    return context


def unverified_context() -> ssl.SSLContext:
    """For one purpose only: to fetch the trust bundle, which the join token's pin then checks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _load_key_and_chain(context: ssl.SSLContext, chain_pem: str, key_pem: str) -> None:
    """Give the context a certificate chain (leaf first) and its key; neither touches a disk."""
    # OpenSSL's Python face reads keys from files only; a memfd is one that no disk ever sees
    descriptor = os.memfd_create("key", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(key_pem.encode() + b"\n" + chain_pem.encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _expecting(expected: SpiffeId) -> type[ssl.SSLObject]:
    class ExpectingObject(ssl.SSLObject):
        """An SSLObject whose handshake fails unless the peer's certificate is that of the expected SPIFFE ID."""

        def do_handshake(self) -> None:
            super().do_handshake()
            _check_peer(self.getpeercert(binary_form=True), expected)

    return ExpectingObject


def _check_peer(leaf: bytes | None, expected: SpiffeId) -> None:
    """ssl.SSLCertVerificationError, which fails the handshake, unless the leaf is that of ``expected``."""
    if leaf is None:
        raise ssl.SSLCertVerificationError("the server showed no certificate")
    try:
        peer = check_peer_chain(leaf, datetime.now(UTC), expected.trust_domain, workloads_only=False)
    except PeerCertificateError as error:
        raise ssl.SSLCertVerificationError(f"the server's certificate proves nothing: {error}") from error
    if peer.spiffe_id != expected:
        raise ssl.SSLCertVerificationError(f"the server is {peer.spiffe_id}, expected {expected}")
