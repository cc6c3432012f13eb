"""TLS contexts for tunnels: TLS 1.3 only, certificates on both sides, ALPN h2, nothing on disk.

A context verifies the peer's chain against one trust domain's bundle and nothing else. Whose certificate it is, and
whether it is an SVID at all, is checked after the handshake by ``authenticate`` (SVIDs carry no DNS names, so hostname
checking has nothing to say). Call it on both sides, before the first byte of the peer is believed.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Sequence
from datetime import datetime

from cryptography import x509

from nodeagent.identity.keys import SvidMaterial
from nodeagent.identity.spiffe import PeerCertificateError, PeerIdentity, check_peer_chain

ALPN = "h2"
MAX_BUNDLE = 64
"""Roots of one trust domain; more is not a rotation but a mistake."""


class BundleError(ValueError):
    """A trust bundle cannot be used; the message says which certificate and why."""


def check_bundle(bundle_pems: Sequence[str]) -> None:
    """BundleError unless there are roots and each is a self-signed CA: an intermediate vouches for nothing here."""
    if not bundle_pems:
        raise BundleError("the trust bundle is empty")
    if len(bundle_pems) > MAX_BUNDLE:
        raise BundleError(f"the trust bundle has {len(bundle_pems)} certificates (bound: {MAX_BUNDLE})")
    for index, pem in enumerate(bundle_pems):
        try:
            certificates = x509.load_pem_x509_certificates(pem.encode("utf-8", "replace"))
            if len(certificates) != 1:
                raise BundleError(f"entry {index} of the trust bundle holds {len(certificates)} certificates, not one")
            _check_root(certificates[0])
        except BundleError:
            raise
        # whatever a parser makes of it, it is no root
        except Exception as error:
            raise BundleError(f"certificate {index} of the trust bundle is not a root: {error!r}") from error


def _check_root(root: x509.Certificate) -> None:
    name = root.subject.rfc4514_string()
    if root.subject != root.issuer:
        raise BundleError(f"{name!r} in the trust bundle is not a root: {root.issuer.rfc4514_string()!r} issued it")
    root.verify_directly_issued_by(root)
    if not root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
        raise BundleError(f"{name!r} in the trust bundle is not a CA")
    if not root.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign:
        raise BundleError(f"{name!r} in the trust bundle may not sign certificates (key usage)")


def client_context(svid: SvidMaterial, bundle_pems: Sequence[str]) -> ssl.SSLContext:
    """To open tunnels as the SVID's workload."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, svid, bundle_pems)


def server_context(svid: SvidMaterial, bundle_pems: Sequence[str]) -> ssl.SSLContext:
    """To answer tunnels as the SVID's workload. No session tickets: a resumed session would skip the new checks."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, svid, bundle_pems)
    context.num_tickets = 0
    return context


def choosing_context(
    choose: Callable[[ssl.SSLObject | ssl.SSLSocket, str | None], ssl.SSLContext | None],
) -> ssl.SSLContext:
    """To answer tunnels before it is known as whom.

    ``choose`` gets the connection and the server name (or None) and gives the ``server_context`` to go on with, whose
    bundle judges the client too; None refuses the peer (unrecognized_name).
    """
    context = _bare_context(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0

    def on_server_name(tls: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> int | None:
        chosen = choose(tls, name)
        if chosen is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        tls.context = chosen
        return None

    context.sni_callback = on_server_name
    return context


def _context(protocol: int, svid: SvidMaterial, bundle_pems: Sequence[str]) -> ssl.SSLContext:
    check_bundle(bundle_pems)
    context = _bare_context(protocol)
    context.load_verify_locations(cadata="".join(pem.rstrip("\n") + "\n" for pem in bundle_pems))
    load_key_and_chain(context, svid.chain_pem, svid.key_pem)
    return context


def _bare_context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    # a chain must end at a root: an intermediate that slipped in as an anchor is none
    context.verify_flags &= ~ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    context.set_alpn_protocols([ALPN])
    return context


def load_key_and_chain(context: ssl.SSLContext, chain_pem: str, key_pem: str) -> None:
    """Give the context a certificate chain (leaf first) and its key; neither touches a disk."""
    # OpenSSL's Python face reads keys from files only; a memfd is one that no disk ever sees
    descriptor = os.memfd_create("key", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(key_pem.encode() + b"\n" + chain_pem.encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def authenticate(tls: ssl.SSLObject | ssl.SSLSocket, now: datetime, trust_domain: str) -> PeerIdentity:
    """Who is at the other end of a finished handshake; PeerCertificateError (close the connection) if nobody proved."""
    if tls.version() != "TLSv1.3":
        raise PeerCertificateError(f"{tls.version() or 'no TLS'} was negotiated, not TLSv1.3")
    if tls.selected_alpn_protocol() != ALPN:
        raise PeerCertificateError(f"the peer does not speak {ALPN} (ALPN: {tls.selected_alpn_protocol()})")
    leaf = tls.getpeercert(binary_form=True)
    if leaf is None:
        raise PeerCertificateError("the peer showed no certificate")
    return check_peer_chain(leaf, now, trust_domain)
