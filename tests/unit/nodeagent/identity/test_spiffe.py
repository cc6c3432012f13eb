"""Every rule of X.509-SVID for a leaf: one certificate that breaks just that."""

from __future__ import annotations

from datetime import timedelta

import pytest

from nodeagent.identity import spiffe
from nodeagent.identity.spiffe import PeerCertificateError, check_peer_chain
from tests.support import pki

SAYS = {
    "two URI SANs": "2 URI SANs",
    "the same URI SAN twice": "2 URI SANs",
    "no URI SAN": "0 URI SANs",
    "no SAN at all": "no subject alternative name",
    "URI is not SPIFFE": "does not start with spiffe://",
    "root path": "no path",
    "trailing slash": "path segment ''",
    "upper-case trust domain": "lower-case",
    "query": "path segment",
    "percent-encoding": "path segment",
    "dot segment": "'..'",
    "other trust domain": "another trust domain",
    "CA flag": "CA certificate",
    "CA as leaf": "CA certificate",
    "no key usage": "no key usage",
    "key usage not critical": "not critical",
    "no digitalSignature": "lacks digitalSignature",
    "keyCertSign": "keyCertSign",
    "cRLSign": "cRLSign",
    "EKU without clientAuth": "clientAuth",
    "EKU without serverAuth": "serverAuth",
    "empty subject, SAN not critical": "subject is empty",
    "expired": "expired",
    "not yet valid": "not valid before",
    "a node's identity": "not a workload's identity",
}


def test_the_table_is_complete() -> None:
    assert SAYS.keys() == pki.BAD_SVIDS.keys()


@pytest.mark.parametrize("fault", pki.BAD_SVIDS)
def test_a_leaf_that_breaks_a_rule_is_nobody(fault: str, issuer: pki.Authority) -> None:
    leaf = pki.BAD_SVIDS[fault](issuer)
    with pytest.raises(PeerCertificateError) as caught:
        check_peer_chain(leaf.der, pki.now(), pki.TRUST_DOMAIN)
    assert SAYS[fault] in str(caught.value)


@pytest.mark.parametrize("shape", pki.GOOD_SVIDS)
def test_a_leaf_that_keeps_them_is_somebody(shape: str, issuer: pki.Authority) -> None:
    leaf = pki.GOOD_SVIDS[shape](issuer)
    peer = check_peer_chain(leaf.der, pki.now(), pki.TRUST_DOMAIN)
    assert str(peer.spiffe_id) == pki.WEB
    assert peer.not_after == leaf.certificate.not_valid_after_utc


def test_an_identity_of_2048_bytes_is_read(issuer: pki.Authority) -> None:
    name = f"spiffe://{pki.TRUST_DOMAIN}/ns/a/sa/"
    name += "x" * (2048 - len(name))
    assert str(check_peer_chain(pki.make_svid(issuer, name).der, pki.now(), pki.TRUST_DOMAIN).spiffe_id) == name
    with pytest.raises(PeerCertificateError, match="2048"):
        check_peer_chain(pki.make_svid(issuer, name + "x").der, pki.now(), pki.TRUST_DOMAIN)


def test_the_mesh_itself_is_somebody_only_where_it_is_asked_for(issuer: pki.Authority) -> None:
    leaf = pki.BAD_SVIDS["a node's identity"](issuer)
    peer = check_peer_chain(leaf.der, pki.now(), pki.TRUST_DOMAIN, workloads_only=False)
    assert peer.spiffe_id.segments == ("node", "node-a")


def test_validity_and_trust_domain_are_checked_each_time(issuer: pki.Authority) -> None:
    leaf = pki.make_svid(issuer)
    start, end = leaf.certificate.not_valid_before_utc, leaf.certificate.not_valid_after_utc
    second = timedelta(seconds=1)
    check_peer_chain(leaf.der, start, pki.TRUST_DOMAIN)
    check_peer_chain(leaf.der, end - second, pki.TRUST_DOMAIN)
    for moment in (start - second, end, end + second):
        with pytest.raises(PeerCertificateError):
            check_peer_chain(leaf.der, moment, pki.TRUST_DOMAIN)
    with pytest.raises(PeerCertificateError, match="another trust domain"):
        check_peer_chain(leaf.der, pki.now(), "other.example")


def test_a_leaf_is_read_once_and_refusals_are_not_kept(issuer: pki.Authority) -> None:
    spiffe._read.cache_clear()
    good, bad = pki.make_svid(issuer).der, pki.BAD_SVIDS["two URI SANs"](issuer).der
    for _ in range(3):
        check_peer_chain(good, pki.now(), pki.TRUST_DOMAIN)
        with pytest.raises(PeerCertificateError):
            check_peer_chain(bad, pki.now(), pki.TRUST_DOMAIN)
    info = spiffe._read.cache_info()
    assert (info.hits, info.currsize, info.maxsize) == (2, 1, spiffe.MAX_CACHED_LEAVES)


@pytest.mark.parametrize("der", [b"", b"\x30", b"\x30\x80", b"not a certificate", b"\x00" * 100])
def test_bytes_that_are_no_certificate(der: bytes) -> None:
    with pytest.raises(PeerCertificateError, match="cannot be read"):
        check_peer_chain(der, pki.now(), pki.TRUST_DOMAIN)


def test_bytes_after_the_certificate_and_too_many_bytes(issuer: pki.Authority) -> None:
    der = pki.make_svid(issuer).der
    with pytest.raises(PeerCertificateError, match="cannot be read"):
        check_peer_chain(der + b"\x00", pki.now(), pki.TRUST_DOMAIN)
    with pytest.raises(PeerCertificateError, match="larger than"):
        check_peer_chain(der + b"\x00" * spiffe.MAX_LEAF_BYTES, pki.now(), pki.TRUST_DOMAIN)
