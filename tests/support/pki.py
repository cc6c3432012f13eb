"""A small PKI for tests: roots, intermediates, and SVIDs that are good or wrong in exactly one way.

    root = pki.make_root()
    issuer = pki.make_intermediate(root)
    svid = pki.make_svid(issuer, "spiffe://mesh.internal/ns/shop/sa/web")
    svid.chain_pem, svid.key_pem, root.pem

``BAD_SVIDS`` maps the name of every rule of X.509-SVID that a leaf can break to a function that makes one breaking it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

TRUST_DOMAIN = "mesh.internal"
WEB = f"spiffe://{TRUST_DOMAIN}/ns/shop/sa/web"
CLIENT = f"spiffe://{TRUST_DOMAIN}/ns/shop/sa/client"

BOTH_USAGES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
_SKEW = timedelta(minutes=5)


@dataclass(frozen=True)
class Authority:
    """A CA certificate, its key, and what is sent between it and its root (itself included, unless it is the root)."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    intermediates: tuple[x509.Certificate, ...] = ()

    @property
    def pem(self) -> str:
        """The CA's own certificate."""
        return to_pem(self.certificate)


@dataclass(frozen=True)
class Leaf:
    """An end certificate with its key and everything that is sent along with it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    intermediates: tuple[x509.Certificate, ...] = ()

    @property
    def der(self) -> bytes:
        """The certificate alone."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def chain_pem(self) -> str:
        """Leaf first, then the intermediates, without the root."""
        return "".join(to_pem(c) for c in (self.certificate, *self.intermediates))

    @property
    def key_pem(self) -> str:
        """PKCS#8, not encrypted."""
        return key_to_pem(self.key)


@dataclass(frozen=True, kw_only=True)
class LeafShape:
    """What a leaf says of itself; the defaults are a correct X.509-SVID."""

    uris: tuple[str, ...] = (WEB,)
    dns: tuple[str, ...] = ()
    san_critical: bool = False
    subject: str = "nodemesh"
    """Common name; empty makes the subject empty."""
    basic_constraints: bool = True
    ca: bool = False
    key_usage: bool = True
    key_usage_critical: bool = True
    usages: frozenset[str] = frozenset({"digital_signature"})
    """Names of ``x509.KeyUsage`` parameters that are set."""
    extended: tuple[x509.ObjectIdentifier, ...] | None = BOTH_USAGES
    not_before: datetime | None = None
    not_after: datetime | None = None
    lifetime: timedelta = timedelta(hours=24)


def now() -> datetime:
    """The clock by which OpenSSL will judge what is made here."""
    return datetime.now(UTC).replace(microsecond=0)


def make_key() -> ec.EllipticCurvePrivateKey:
    """A P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def to_pem(certificate: x509.Certificate) -> str:
    """PEM text."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """PKCS#8 PEM text, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def make_root(trust_domain: str = TRUST_DOMAIN, *, name: str = "root") -> Authority:
    """A self-signed CA whose SAN is the trust domain."""
    key = make_key()
    certificate = _ca_certificate(f"{name} of {trust_domain}", trust_domain, key, None)
    return Authority(certificate, key)


def make_intermediate(parent: Authority, trust_domain: str = TRUST_DOMAIN, *, name: str = "intermediate") -> Authority:
    """A CA that ``parent`` signed."""
    key = make_key()
    certificate = _ca_certificate(f"{name} of {trust_domain}", trust_domain, key, parent)
    return Authority(certificate, key, (certificate, *parent.intermediates))


def make_svid(issuer: Authority, identity: str = WEB, *, lifetime: timedelta = timedelta(hours=24)) -> Leaf:
    """A correct SVID."""
    return make_leaf(issuer, LeafShape(uris=(identity,), lifetime=lifetime))


def sign_csr(issuer: Authority, csr_pem: str, *, lifetime: timedelta = timedelta(hours=24)) -> str:
    """What control answers to a CSR: the chain (PEM, leaf first), for the first URI that the CSR names."""
    csr = x509.load_pem_x509_csr(csr_pem.encode())
    san = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = tuple(san.get_values_for_type(x509.UniformResourceIdentifier))
    public = csr.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    certificate = _leaf_certificate(issuer, LeafShape(uris=uris, lifetime=lifetime), public)
    return "".join(to_pem(c) for c in (certificate, *issuer.intermediates))


def make_leaf(issuer: Authority, shape: LeafShape, key: ec.EllipticCurvePrivateKey | None = None) -> Leaf:
    """A leaf of any shape, right or wrong."""
    key = key or make_key()
    return Leaf(_leaf_certificate(issuer, shape, key.public_key()), key, issuer.intermediates)


def ca_as_leaf(parent: Authority) -> Leaf:
    """An intermediate CA's certificate and key presented as if it were a workload's."""
    authority = make_intermediate(parent)
    return Leaf(authority.certificate, authority.key, parent.intermediates)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])


def _key_usage(names: frozenset[str]) -> x509.KeyUsage:
    known = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: name in names for name in known})


def _ca_certificate(
    name: str, trust_domain: str, key: ec.EllipticCurvePrivateKey, parent: Authority | None
) -> x509.Certificate:
    issuer_name = parent.certificate.subject if parent else _name(name)
    issuer_key = parent.key if parent else key
    start = now() - _SKEW
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_key_usage(frozenset({"key_cert_sign", "crl_sign"})), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def _leaf_certificate(issuer: Authority, shape: LeafShape, public: ec.EllipticCurvePublicKey) -> x509.Certificate:
    end = shape.not_after or (shape.not_before or now()) + shape.lifetime
    start = shape.not_before or min(now() - _SKEW, end - timedelta(minutes=1))
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(shape.subject))
        .issuer_name(issuer.certificate.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
    )
    if shape.basic_constraints:
        builder = builder.add_extension(x509.BasicConstraints(ca=shape.ca, path_length=None), critical=True)
    if shape.key_usage:
        builder = builder.add_extension(_key_usage(shape.usages), critical=shape.key_usage_critical)
    if shape.extended is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(list(shape.extended)), critical=False)
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in shape.uris]
    names += [x509.DNSName(name) for name in shape.dns]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=shape.san_critical)
    return builder.sign(issuer.key, hashes.SHA256())


def _shape(**changes: object) -> Callable[[Authority], Leaf]:
    return lambda issuer: make_leaf(issuer, LeafShape(**changes))  # type: ignore[arg-type]


BAD_SVIDS: dict[str, Callable[[Authority], Leaf]] = {
    "two URI SANs": _shape(uris=(WEB, CLIENT)),
    "the same URI SAN twice": _shape(uris=(WEB, WEB)),
    "no URI SAN": _shape(uris=(), dns=("web.shop",)),
    "no SAN at all": _shape(uris=()),
    "URI is not SPIFFE": _shape(uris=("https://mesh.internal/ns/shop/sa/web",)),
    "root path": _shape(uris=(f"spiffe://{TRUST_DOMAIN}",)),
    "trailing slash": _shape(uris=(WEB + "/",)),
    "upper-case trust domain": _shape(uris=("spiffe://MESH.internal/ns/shop/sa/web",)),
    "query": _shape(uris=(WEB + "?a=b",)),
    "percent-encoding": _shape(uris=(WEB + "%20",)),
    "dot segment": _shape(uris=(f"spiffe://{TRUST_DOMAIN}/ns/../sa/web",)),
    "other trust domain": _shape(uris=("spiffe://other.example/ns/shop/sa/web",)),
    "CA flag": _shape(ca=True),
    "CA as leaf": ca_as_leaf,
    "no key usage": _shape(key_usage=False),
    "key usage not critical": _shape(key_usage_critical=False),
    "no digitalSignature": _shape(usages=frozenset({"key_encipherment"})),
    "keyCertSign": _shape(usages=frozenset({"digital_signature", "key_cert_sign"})),
    "cRLSign": _shape(usages=frozenset({"digital_signature", "crl_sign"})),
    "EKU without clientAuth": _shape(extended=(ExtendedKeyUsageOID.SERVER_AUTH,)),
    "EKU without serverAuth": _shape(extended=(ExtendedKeyUsageOID.CLIENT_AUTH,)),
    "empty subject, SAN not critical": _shape(subject=""),
    "expired": _shape(not_before=now() - timedelta(hours=2), not_after=now() - timedelta(hours=1)),
    "not yet valid": _shape(not_before=now() + timedelta(hours=1)),
    "a node's identity": _shape(uris=(f"spiffe://{TRUST_DOMAIN}/node/node-a",)),
}
"""What breaks -> how to make one."""

GOOD_SVIDS: dict[str, Callable[[Authority], Leaf]] = {
    "plain": _shape(),
    "no EKU": _shape(extended=None),
    "no basic constraints": _shape(basic_constraints=False),
    "a DNS name beside the URI": _shape(dns=("web.shop.svc",)),
    "empty subject, SAN critical": _shape(subject="", san_critical=True),
    "keyEncipherment and keyAgreement too": _shape(
        usages=frozenset({"digital_signature", "key_encipherment", "key_agreement"})
    ),
    "more EKUs than needed": _shape(extended=(*BOTH_USAGES, ExtendedKeyUsageOID.CODE_SIGNING)),
}
"""Shapes that the standard allows, though ours are plain."""
