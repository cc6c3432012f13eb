"""Certificates say what the X.509-SVID standard wants, whatever the request asked for."""

from __future__ import annotations

import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from control.ca import authority as ca
from control.wire.ids import SpiffeId

NOW = 1_700_000_000.0
WEB = SpiffeId.parse("spiffe://mesh.internal/ns/shop/sa/web")


def make() -> tuple[ca.Signer, ca.Signer, ca.Authority]:
    root_key, key = ca.new_key(), ca.new_key()
    root = ca.Signer(ca.new_root(root_key, "mesh.internal", NOW), root_key)
    intermediate = ca.Signer(ca.new_intermediate(root, key, "mesh.internal", NOW), key)
    return root, intermediate, ca.Authority(intermediate, "mesh.internal")


def csr(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey, greedy: bool = False) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "spiffe://mesh.internal/operator/admin")])
    )
    if greedy:
        names = [x509.UniformResourceIdentifier("spiffe://mesh.internal/operator/admin"), x509.DNSName("control")]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM).decode()


def test_a_leaf_in_full_and_nothing_of_the_request_but_its_key() -> None:
    root, intermediate, authority = make()
    key = ca.new_key()
    chain = authority.issue(WEB, ca.read_csr(csr(key, greedy=True)), NOW, 3600)
    leaf, above = x509.load_pem_x509_certificates(chain.encode())
    assert above == intermediate.certificate
    assert leaf.public_key() == key.public_key()
    assert len(leaf.subject.rdns) == 0
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical and list(names.value) == [x509.UniformResourceIdentifier(str(WEB))]
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical and usage.value.digital_signature
    assert not usage.value.key_cert_sign and not usage.value.crl_sign
    constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical and constraints.value.ca is False
    purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(purposes) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert leaf.not_valid_before_utc.timestamp() == NOW - ca.BACKDATE_SECONDS
    assert leaf.not_valid_after_utc.timestamp() == NOW + 3600
    leaf.verify_directly_issued_by(intermediate.certificate)
    intermediate.certificate.verify_directly_issued_by(root.certificate)


def test_signing_certificates_sign_and_have_no_path() -> None:
    root, intermediate, _ = make()
    for certificate, length in ((root.certificate, 1), (intermediate.certificate, 0)):
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        assert constraints.critical and (constraints.value.ca, constraints.value.path_length) == (True, length)
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
        assert usage.critical and usage.value.key_cert_sign and not usage.value.digital_signature
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://mesh.internal"]


def test_no_leaf_outlives_its_signer() -> None:
    _, intermediate, authority = make()
    chain = authority.issue(WEB, ca.new_key().public_key(), NOW, 10**9)
    leaf = x509.load_pem_x509_certificate(chain.encode())
    assert leaf.not_valid_after_utc == intermediate.certificate.not_valid_after_utc


def test_a_server_has_names_besides() -> None:
    _, _, authority = make()
    chain = authority.issue(WEB, ca.new_key().public_key(), NOW, 60, ("control.example", "::1", "10.0.0.1"))
    names = (
        x509.load_pem_x509_certificate(chain.encode())
        .extensions.get_extension_for_class(x509.SubjectAlternativeName)
        .value
    )
    assert names.get_values_for_type(x509.DNSName) == ["control.example"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("::1"), ipaddress.ip_address("10.0.0.1")]
    assert len(names.get_values_for_type(x509.UniformResourceIdentifier)) == 1


def test_keys_that_are_good_enough() -> None:
    for key in (
        ca.new_key(),
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ):
        assert ca.read_csr(csr(key)) == key.public_key()


def test_requests_that_cannot_be_used() -> None:
    good = csr(ca.new_key())
    other = csr(ca.new_key())
    lines = good.splitlines()
    forged = "\n".join([*lines[:-2], other.splitlines()[-2], lines[-1]])
    for text, words in (
        ("", "PKCS#10"),
        ("hello", "PKCS#10"),
        ("é", "PKCS#10"),
        (good[:200], "PKCS#10"),
        ("x" * 20_000, "longer"),
        (forged, "signature|PKCS#10"),
        (csr(ec.generate_private_key(ec.SECP256K1())), "must be P-256"),
        (csr(rsa.generate_private_key(65537, 1024)), "at least 2048"),
    ):
        with pytest.raises(ca.CsrError, match=words):
            ca.read_csr(text)
