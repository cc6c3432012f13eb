"""Invariant: any bytes shown as a peer's leaf prove one workload of our trust domain, or raise PeerCertificateError.

Spoiled chains and keys likewise make an SVID or raise SvidError. Half of the inputs are signed again after a random
change of shape, so that the rules behind the parser are reached too, and are judged by a second reading of the rules.
"""

from __future__ import annotations

import random
import sys
from datetime import timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from cryptography.x509.oid import ExtendedKeyUsageOID  # noqa: E402

from nodeagent.identity.keys import SvidError, load_svid  # noqa: E402
from nodeagent.identity.spiffe import PeerCertificateError, check_peer_chain  # noqa: E402
from tests.fuzz.mutate import run  # noqa: E402
from tests.support import pki  # noqa: E402

ISSUER = pki.make_intermediate(pki.make_root())
GOOD = pki.make_svid(ISSUER)
CORPUS = [make(ISSUER).der for make in (*pki.GOOD_SVIDS.values(), *pki.BAD_SVIDS.values())]
NOW = pki.now()
KEY = pki.make_key()
USAGES = ("digital_signature", "key_encipherment", "key_agreement", "key_cert_sign", "crl_sign", "content_commitment")
URIS = (
    pki.WEB,
    pki.WEB,
    pki.WEB,
    pki.WEB + "/",
    "spiffe://x/ns/a/sa/b",
    "urn:x",
    "",
    f"spiffe://{pki.TRUST_DOMAIN}/node/a",
)
EXTENDED = (*pki.BOTH_USAGES, ExtendedKeyUsageOID.CODE_SIGNING)


def target(rng: random.Random, data: bytes) -> bool:
    """One input; True if it proved somebody."""
    if rng.random() < 0.5:
        return shaped(rng)
    spoil_svid(rng, data)
    return proves(data)


def proves(der: bytes) -> bool:
    try:
        peer = check_peer_chain(der, NOW, pki.TRUST_DOMAIN)
    except PeerCertificateError as error:
        assert str(error)
        return False
    assert peer.spiffe_id.trust_domain == pki.TRUST_DOMAIN and peer.spiffe_id.is_workload
    assert peer.not_after > NOW
    return True


def shaped(rng: random.Random) -> bool:
    shape = pki.LeafShape(
        uris=tuple(rng.choice(URIS) for _ in range(rng.choice((0, 1, 1, 1, 1, 2)))),
        dns=("a.b",) * rng.randrange(2),
        san_critical=rng.random() < 0.3,
        subject=rng.choice(("x", "x", "")),
        basic_constraints=rng.random() < 0.8,
        ca=rng.random() < 0.1,
        key_usage=rng.random() < 0.9,
        key_usage_critical=rng.random() < 0.9,
        usages=frozenset({"digital_signature", *rng.sample(USAGES, rng.choice((0, 0, 1)))}),
        extended=rng.choice((None, pki.BOTH_USAGES, pki.BOTH_USAGES, tuple(rng.sample(EXTENDED, rng.randint(1, 3))))),
        not_before=NOW + timedelta(minutes=rng.choice((-60, -60, -60, 60))),
        lifetime=timedelta(minutes=rng.choice((30, 120, 1440, 1440))),
    )
    proved = proves(pki.make_leaf(ISSUER, shape, KEY).der)
    assert proved == lawful(shape), shape
    return proved


def lawful(shape: pki.LeafShape) -> bool:
    """The rules, read a second time."""
    assert shape.not_before is not None
    return all((
        shape.uris == (pki.WEB,),
        shape.subject or shape.san_critical,
        not (shape.basic_constraints and shape.ca),
        shape.key_usage and shape.key_usage_critical,
        not shape.usages & {"key_cert_sign", "crl_sign"},
        shape.extended is None or set(pki.BOTH_USAGES) <= set(shape.extended),
        shape.not_before <= NOW < shape.not_before + shape.lifetime,
    ))  # fmt: skip


def spoil_svid(rng: random.Random, data: bytes) -> None:
    text = bytearray((GOOD.chain_pem + GOOD.key_pem).encode())
    for _ in range(rng.randrange(3)):
        text[rng.randrange(len(text))] = data[rng.randrange(len(data))] if data else 0
    spoiled = text.decode("latin-1")
    cut = len(GOOD.chain_pem)
    try:
        svid = load_svid(spoiled[:cut], spoiled[cut:])
    except SvidError:
        return
    assert svid.identity.is_workload


def test_certificate_holds_its_invariant() -> None:
    assert run(target, CORPUS, ["--runs", "2000", "--seed", "1"]) == 0


if __name__ == "__main__":
    sys.exit(run(target, CORPUS, sys.argv[1:]))
