"""Issuing certificates. Pure: the signing key, the clock's reading and the request come in, a chain goes out.

Rules: the X.509-SVID standard (github.com/spiffe/spiffe, standards/X509-SVID.md). Of a request only the key is used,
and that its sender holds it; names, extensions and lifetimes are decided here.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from control.wire.ids import SpiffeId

ROOT_LIFETIME = 3650 * 24 * 3600.0
INTERMEDIATE_LIFETIME = 730 * 24 * 3600.0
BACKDATE_SECONDS = 60.0
"""Certificates begin this much earlier, for clocks that are a little behind."""
MAX_CSR_CHARACTERS = 16 * 1024
MIN_RSA_BITS = 2048

_LEAF_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
_CA_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)
_BOTH_EKU = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey


class CsrError(ValueError):
    """The certificate request cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Signer:
    """A certificate that may sign, with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def new_key() -> ec.EllipticCurvePrivateKey:
    """A P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def read_csr(text: str) -> PublicKey:
    """The key of a PKCS#10 request (PEM), once its signature proves possession; CsrError otherwise."""
    if len(text) > MAX_CSR_CHARACTERS:
        raise CsrError(f"the request is longer than {MAX_CSR_CHARACTERS} characters")
    try:
        request = x509.load_pem_x509_csr(text.encode())
        key = request.public_key()
        valid = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CsrError("not a PKCS#10 certificate request in PEM form") from error
    if not valid:
        raise CsrError("the request's signature does not fit its key")
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, (ec.SECP256R1, ec.SECP384R1)):
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= MIN_RSA_BITS:
        return key
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    raise CsrError(f"the key must be P-256, P-384, Ed25519, or RSA with at least {MIN_RSA_BITS} bits")


def new_root(key: ec.EllipticCurvePrivateKey, trust_domain: str, now: float) -> x509.Certificate:
    """A self-signed root of the trust domain."""
    name = _name("nodemesh root", trust_domain)
    builder = _ca_builder(name, name, key.public_key(), 1, trust_domain)
    builder = _lifetime(builder, now, now + ROOT_LIFETIME)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False).sign(
        key, hashes.SHA256()
    )


def new_intermediate(root: Signer, key: ec.EllipticCurvePrivateKey, trust_domain: str, now: float) -> x509.Certificate:
    """A signing certificate below the root; it may sign leaves only."""
    builder = _ca_builder(
        _name("nodemesh intermediate", trust_domain), root.certificate.subject, key.public_key(), 0, trust_domain
    )
    builder = _lifetime(builder, now, min(now + INTERMEDIATE_LIFETIME, not_after(root.certificate)))
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return builder.add_extension(_issuer_id(root), critical=False).sign(root.key, hashes.SHA256())


class Authority:
    """Issues leaf certificates from an intermediate."""

    def __init__(self, signer: Signer, trust_domain: str) -> None:
        self._signer = signer
        self.trust_domain = trust_domain

    @property
    def expires(self) -> float:
        """When the signing certificate ends; no leaf outlives it."""
        return not_after(self._signer.certificate)

    def issue(
        self,
        identity: SpiffeId,
        key: PublicKey,
        now: float,
        lifetime: float,
        names: Sequence[str] = (),
    ) -> str:
        """The chain (PEM, leaf first, without the root) of a leaf with exactly one URI SAN.

        ``names``: host names and addresses as further SANs, for servers only.
        """
        alternatives: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(identity))]
        alternatives += [_general_name(name) for name in names]
        builder = (
            x509.CertificateBuilder()
            # The subject is empty, so the SAN extension must be critical (RFC 5280, 4.2.1.6).
            .subject_name(x509.Name([]))
            .issuer_name(self._signer.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_LEAF_USAGE, critical=True)
            .add_extension(_BOTH_EKU, critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(_issuer_id(self._signer), critical=False)
        )
        builder = _lifetime(builder, now, min(now + lifetime, self.expires))
        leaf = builder.sign(self._signer.key, hashes.SHA256())
        return pem(leaf) + pem(self._signer.certificate)


def _ca_builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    path_length: int,
    trust_domain: str,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_CA_USAGE, critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]), critical=False
        )
    )


def _lifetime(builder: x509.CertificateBuilder, now: float, until: float) -> x509.CertificateBuilder:
    return builder.not_valid_before(_time(now - BACKDATE_SECONDS)).not_valid_after(_time(until))


def _time(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)


def _issuer_id(signer: Signer) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key())


def _name(common_name: str, trust_domain: str) -> x509.Name:
    # A common name has at most 64 characters; the SAN carries the trust domain whole.
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain[:64]),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def pem(certificate: x509.Certificate) -> str:
    """The certificate in PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """The private key in PEM (PKCS#8, not encrypted)."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def not_after(certificate: x509.Certificate) -> float:
    """When it ends, seconds since 1970."""
    return certificate.not_valid_after_utc.timestamp()


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the DER form, hex: what a join token carries of the root."""
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()
