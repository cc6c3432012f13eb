"""Keys, certificate requests, and an SVID's material. Keys are P-256, live in memory, and are never written here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from control.wire.ids import SpiffeId
from nodeagent.identity.spiffe import PeerCertificateError, leaf_identity

MAX_CHAIN_LENGTH = 8
"""Certificates in a chain, leaf included."""


class SvidError(ValueError):
    """A key and a chain do not make an SVID; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRequest:
    """A new key and the PKCS#10 request for its certificate (PEM both)."""

    identity: SpiffeId
    key_pem: str
    csr_pem: str

    def __repr__(self) -> str:
        return f"KeyRequest({self.identity})"


@dataclass(frozen=True, slots=True, kw_only=True)
class SvidMaterial:
    """A key, the chain that names it (PEM, leaf first, no root), and what the leaf says."""

    identity: SpiffeId
    serial: int
    not_before: datetime
    not_after: datetime
    chain_pem: str
    key_pem: str

    def __repr__(self) -> str:
        # the key must not reach a log by way of a repr
        return f"SvidMaterial({self.identity}, serial={self.serial:x}, not_after={self.not_after.isoformat()})"


def new_request(identity: SpiffeId) -> KeyRequest:
    """Make a key and ask for a certificate of that identity. The CA decides; the request only says which."""
    key = ec.generate_private_key(ec.SECP256R1())
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(identity))]), critical=True)
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return KeyRequest(
        identity=identity,
        key_pem=key_pem.decode("ascii"),
        csr_pem=csr.public_bytes(serialization.Encoding.PEM).decode("ascii"),
    )


def load_svid(chain_pem: str, key_pem: str) -> SvidMaterial:
    """Read an SVID and check that it is one: key and leaf match, the leaf keeps the rules, the chain links up.

    Validity is not checked: an expired SVID can be read, ``SvidStore.usable`` says that it is of no use.
    """
    try:
        return _read_svid(chain_pem, key_pem)
    except SvidError:
        raise
    # parts of a certificate are parsed when they are looked at, and the parser's errors are of many types
    except Exception as error:
        raise SvidError(f"the chain cannot be read: {error!r}") from error


def _read_svid(chain_pem: str, key_pem: str) -> SvidMaterial:
    chain = _load_chain(chain_pem)
    leaf = chain[0]
    if _public_part(key_pem) != _spki(leaf.public_key()):
        raise SvidError("the key does not belong to the certificate")
    try:
        identity = leaf_identity(leaf)
    except PeerCertificateError as error:
        raise SvidError(f"the certificate is not an X.509-SVID: {error}") from error
    _check_links(chain)
    return SvidMaterial(
        identity=identity,
        serial=leaf.serial_number,
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
        chain_pem=chain_pem,
        key_pem=key_pem,
    )


def _public_part(key_pem: str) -> bytes:
    try:
        key = serialization.load_pem_private_key(key_pem.encode("utf-8", "replace"), password=None)
        return _spki(key.public_key())
    except Exception as error:
        raise SvidError(f"the key cannot be read: {error}") from error


def _load_chain(chain_pem: str) -> list[x509.Certificate]:
    try:
        chain = x509.load_pem_x509_certificates(chain_pem.encode("utf-8", "replace"))
    except ValueError as error:
        raise SvidError(f"the chain cannot be read: {error}") from error
    if len(chain) > MAX_CHAIN_LENGTH:
        raise SvidError(f"the chain has {len(chain)} certificates (bound: {MAX_CHAIN_LENGTH})")
    return chain


def _check_links(chain: list[x509.Certificate]) -> None:
    for index, issuer in enumerate(chain[1:], start=1):
        try:
            chain[index - 1].verify_directly_issued_by(issuer)
            constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
        except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as error:
            raise SvidError(f"certificate {index} of the chain did not issue the one before it: {error!r}") from error
        if not constraints.ca:
            raise SvidError(f"certificate {index} of the chain is not a CA")


def _spki(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
