"""Only a node's or an operator's own leaf means anybody."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from control.ca.authority import new_key
from control.ca.peer import ANONYMOUS, Role, identify

END = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)


def certificate(*uris: str, ca: bool = False, names: bool = True) -> bytes:
    key = new_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(END - datetime.timedelta(1))
        .not_valid_after(END)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), True)
    )
    if names:
        entries = [x509.DNSName("x"), *(x509.UniformResourceIdentifier(uri) for uri in uris)]
        builder = builder.add_extension(x509.SubjectAlternativeName(entries), True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize(("role", "name"), [(Role.NODE, "node-a"), (Role.OPERATOR, "admin")])
def test_who_counts(role: Role, name: str) -> None:
    peer = identify(certificate(f"spiffe://mesh.internal/{role}/{name}"), "mesh.internal")
    assert (peer.role, peer.name, peer.expires) == (role, name, END.timestamp())


def test_nobody() -> None:
    assert identify(None, "mesh.internal") is ANONYMOUS
    assert identify(b"", "mesh.internal") is ANONYMOUS


@pytest.mark.parametrize(
    ("der", "why"),
    [
        (certificate("spiffe://mesh.internal/ns/shop/sa/web"), "neither a node nor an operator"),
        (certificate("spiffe://mesh.internal/control"), "neither"),
        (certificate("spiffe://mesh.internal/operator/a/b"), "neither"),
        (certificate("spiffe://mesh.internal/anonymous/x"), "neither"),
        (certificate("spiffe://other.example/operator/admin"), "another trust domain"),
        (certificate("spiffe://mesh.internal/operator/admin", "spiffe://mesh.internal/node/a"), "2 URI names"),
        (certificate(), "0 URI names"),
        (certificate("https://mesh.internal/operator/admin"), "spiffe://"),
        (certificate("spiffe://mesh.internal/operator/admin", ca=True), "CA certificate"),
        (certificate(names=False), "no readable names"),
        (b"not a certificate", "no readable names"),
    ],
)
def test_who_does_not(der: bytes, why: str) -> None:
    peer = identify(der, "mesh.internal")
    assert peer.role is Role.OTHER
    assert why in peer.name
