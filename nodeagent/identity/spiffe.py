"""The rules of X.509-SVID for a peer's leaf that OpenSSL does not check. Pure: the clock is passed in.

The handshake proves that the peer holds the key and that the chain leads to a root of the bundle. It does not prove
that the leaf names a workload: OpenSSL takes a CA certificate as a leaf, and knows nothing of URI SANs. So nobody is
who they claim until ``check_peer_chain`` has returned.

Source: github.com/spiffe/spiffe, standards/X509-SVID.md, sections 2 to 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from control.wire.ids import SpiffeId, SpiffeIdError

MAX_LEAF_BYTES = 16 * 1024
"""A leaf larger than this is refused unread; ours are below 1 KiB, the longest SPIFFE ID is 2 KiB."""
MAX_CACHED_LEAVES = 1024


class PeerCertificateError(Exception):
    """A peer's certificate proves nothing; the message names the rule that it breaks."""


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """What a peer proved."""

    spiffe_id: SpiffeId
    not_after: datetime


@dataclass(frozen=True, slots=True)
class _Leaf:
    spiffe_id: SpiffeId
    not_before: datetime
    not_after: datetime


def check_peer_chain(leaf_der: bytes, now: datetime, trust_domain: str, *, workloads_only: bool = True) -> PeerIdentity:
    """Whom a leaf, whose chain the handshake has verified, proves its holder to be at ``now`` (with time zone).

    ``trust_domain`` is that of the bundle by which the chain was verified. Unless ``workloads_only`` is False, the
    mesh's own parts (nodes, operators, control) are refused: their certificates do not speak for workloads.
    """
    if len(leaf_der) > MAX_LEAF_BYTES:
        raise PeerCertificateError(f"the certificate is larger than {MAX_LEAF_BYTES} bytes")
    leaf = _read(leaf_der)
    if now < leaf.not_before:
        raise PeerCertificateError(f"{leaf.spiffe_id}: not valid before {leaf.not_before.isoformat()}; check clocks")
    if now >= leaf.not_after:
        raise PeerCertificateError(f"{leaf.spiffe_id}: expired at {leaf.not_after.isoformat()}")
    if leaf.spiffe_id.trust_domain != trust_domain:
        raise PeerCertificateError(f"{leaf.spiffe_id}: of another trust domain than {trust_domain!r}")
    if workloads_only and not leaf.spiffe_id.is_workload:
        raise PeerCertificateError(f"{leaf.spiffe_id}: not a workload's identity (/ns/<namespace>/sa/<account>)")
    return PeerIdentity(leaf.spiffe_id, leaf.not_after)


# Keyed by the whole DER. Refusals are not kept, and what depends on the clock is checked outside.
@lru_cache(maxsize=MAX_CACHED_LEAVES)
def _read(leaf_der: bytes) -> _Leaf:
    try:
        certificate = x509.load_der_x509_certificate(leaf_der)
        return _Leaf(leaf_identity(certificate), certificate.not_valid_before_utc, certificate.not_valid_after_utc)
    except PeerCertificateError:
        raise
    # whatever a parser makes of hostile bytes, they are no identity
    except Exception as error:
        raise PeerCertificateError(f"the certificate cannot be read: {error}") from error


def leaf_identity(certificate: x509.Certificate) -> SpiffeId:
    """The SPIFFE ID of a leaf that keeps every rule but validity; PeerCertificateError names the broken one."""
    extensions = certificate.extensions
    _check_not_ca(extensions)
    _check_key_usage(extensions)
    _check_extended_key_usage(extensions)
    try:
        san = extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        raise PeerCertificateError("no subject alternative name, so no SPIFFE ID") from None
    if not certificate.subject.rdns and not san.critical:
        raise PeerCertificateError("the subject is empty, but the subject alternative name is not critical")
    uris = san.value.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise PeerCertificateError(f"{len(uris)} URI SANs where an X.509-SVID has exactly one")
    try:
        return SpiffeId.parse(uris[0])
    except SpiffeIdError as error:
        raise PeerCertificateError(f"URI SAN: {error}") from None


def _check_not_ca(extensions: x509.Extensions) -> None:
    try:
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return
    if constraints.ca:
        raise PeerCertificateError("a CA certificate authenticates nobody")


def _check_key_usage(extensions: x509.Extensions) -> None:
    try:
        extension = extensions.get_extension_for_class(x509.KeyUsage)
    except x509.ExtensionNotFound:
        raise PeerCertificateError("no key usage") from None
    if not extension.critical:
        raise PeerCertificateError("key usage is not critical")
    usage = extension.value
    if usage.key_cert_sign or usage.crl_sign:
        raise PeerCertificateError("key usage has keyCertSign or cRLSign, which a leaf may not have")
    if not usage.digital_signature:
        raise PeerCertificateError("key usage lacks digitalSignature")


def _check_extended_key_usage(extensions: x509.Extensions) -> None:
    try:
        usages = set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return
    if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH} <= usages:
        raise PeerCertificateError("extended key usage lacks serverAuth or clientAuth")
