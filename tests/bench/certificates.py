"""A P-256 CA and the two certificates that a pair of peers (Envoy, HAProxy) authenticates with."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CLIENT_NAME = "client.bench.internal"
SERVER_NAME = "server.bench.internal"
LIFETIME = datetime.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Leaf:
    """Paths of one end's PEM files."""

    chain: Path
    key: Path
    both: Path
    """Certificate and key in one file, as HAProxy reads them."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Both ends' certificates under one CA."""

    ca: Path
    client: Leaf
    server: Leaf


def issue(directory: Path) -> Credentials:
    """Write fresh credentials into an existing directory."""
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench CA")])
    ca = (
        _builder(ca_name, ca_name, ca_key.public_key())
        .add_extension(
            x509.BasicConstraints(ca=True, path_length=0),
            critical=True,
        )
        .add_extension(_key_usage(ca=True), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    path = directory / "ca.pem"
    path.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    client, server = (_leaf(directory, name, ca_name, ca_key) for name in (CLIENT_NAME, SERVER_NAME))
    return Credentials(path, client, server)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + LIFETIME)
    )


def _leaf(directory: Path, name: str, issuer: x509.Name, ca_key: ec.EllipticCurvePrivateKey) -> Leaf:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), issuer, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(ca=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    chain = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    leaf = Leaf(directory / f"{name}.pem", directory / f"{name}.key", directory / f"{name}.both.pem")
    for path, content in ((leaf.chain, chain), (leaf.key, secret), (leaf.both, chain + secret)):
        path.touch(mode=0o600)
        path.write_bytes(content)
    return leaf


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
