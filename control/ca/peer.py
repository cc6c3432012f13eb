"""Who presented a client certificate. The TLS layer has verified chain, signature and dates; this reads the name."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from cryptography import x509

from control.ca.authority import not_after
from control.wire.ids import SpiffeId, SpiffeIdError


class Role(StrEnum):
    """The kinds of callers that control distinguishes."""

    ANONYMOUS = "anonymous"
    NODE = "node"
    OPERATOR = "operator"
    OTHER = "other"
    """A certificate of the mesh that means nothing here (a workload's, for example)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerIdentity:
    """A caller by its client certificate."""

    role: Role
    name: str = ""
    """Of the node or operator; for OTHER why it means nothing."""
    expires: float = float("inf")
    """When its certificate ends, seconds since 1970."""


ANONYMOUS = PeerIdentity(role=Role.ANONYMOUS)


def identify(der: bytes | None, trust_domain: str) -> PeerIdentity:
    """The caller behind a verified certificate (DER), or behind none."""
    if not der:
        return ANONYMOUS
    try:
        certificate = x509.load_der_x509_certificate(der)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        is_ca = _is_ca(certificate)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return _other("the certificate has no readable names")
    if is_ca:
        return _other("a CA certificate authenticates nobody")
    if len(uris) != 1:
        return _other(f"the certificate has {len(uris)} URI names; exactly one is allowed")
    try:
        identity = SpiffeId.parse(uris[0])
    except SpiffeIdError as error:
        return _other(str(error))
    if identity.trust_domain != trust_domain:
        return _other(f"{identity} is of another trust domain than {trust_domain}")
    if len(identity.segments) == 2 and identity.segments[0] in (Role.NODE, Role.OPERATOR):
        return PeerIdentity(role=Role(identity.segments[0]), name=identity.segments[1], expires=not_after(certificate))
    return _other(f"{identity} is neither a node nor an operator")


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except x509.ExtensionNotFound:
        return False


def _other(why: str) -> PeerIdentity:
    return PeerIdentity(role=Role.OTHER, name=why)
