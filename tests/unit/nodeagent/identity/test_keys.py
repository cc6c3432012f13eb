"""Keys, requests, and what makes an SVID of a chain and a key."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from control.wire.ids import SpiffeId
from nodeagent.identity.keys import MAX_CHAIN_LENGTH, SvidError, load_svid, new_request
from tests.support import pki

WEB = SpiffeId.parse(pki.WEB)


def test_a_request_names_the_identity_and_is_signed_by_its_key() -> None:
    request = new_request(WEB)
    csr = x509.load_pem_x509_csr(request.csr_pem.encode())
    assert csr.is_signature_valid
    san = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert san.get_values_for_type(x509.UniformResourceIdentifier) == [pki.WEB]
    key = serialization.load_pem_private_key(request.key_pem.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == "secp256r1"
    assert key.public_key() == csr.public_key()
    assert request.key_pem.startswith("-----BEGIN PRIVATE KEY-----")


def test_every_request_has_a_key_of_its_own() -> None:
    assert new_request(WEB).key_pem != new_request(WEB).key_pem


def test_what_comes_back_is_an_svid(issuer: pki.Authority) -> None:
    request = new_request(WEB)
    chain = pki.sign_csr(issuer, request.csr_pem)
    svid = load_svid(chain, request.key_pem)
    leaf = x509.load_pem_x509_certificate(chain.encode())
    assert (svid.identity, svid.serial) == (WEB, leaf.serial_number)
    assert (svid.not_before, svid.not_after) == (leaf.not_valid_before_utc, leaf.not_valid_after_utc)


def test_keys_do_not_reach_a_log_through_repr(issuer: pki.Authority) -> None:
    request = new_request(WEB)
    svid = load_svid(pki.sign_csr(issuer, request.csr_pem), request.key_pem)
    assert "PRIVATE" not in repr(request) + repr(svid)
    assert pki.WEB in repr(request) and pki.WEB in repr(svid)


def test_the_key_must_be_the_leafs(issuer: pki.Authority) -> None:
    with pytest.raises(SvidError, match="does not belong"):
        load_svid(pki.make_svid(issuer).chain_pem, pki.make_svid(issuer).key_pem)


LEAF_FAULTS = [name for name in pki.BAD_SVIDS if name not in
               ("other trust domain", "expired", "not yet valid", "a node's identity")]  # fmt: skip


@pytest.mark.parametrize("fault", LEAF_FAULTS)
def test_the_leaf_must_be_an_svid(fault: str, issuer: pki.Authority) -> None:
    leaf = pki.BAD_SVIDS[fault](issuer)
    with pytest.raises(SvidError, match=r"not an X\.509-SVID"):
        load_svid(leaf.chain_pem, leaf.key_pem)


def test_an_expired_svid_can_be_read(issuer: pki.Authority) -> None:
    leaf = pki.BAD_SVIDS["expired"](issuer)
    assert load_svid(leaf.chain_pem, leaf.key_pem).not_after < pki.now()


def test_the_chain_must_link_up(issuer: pki.Authority, root: pki.Authority) -> None:
    leaf = pki.make_svid(issuer)
    stranger = pki.make_intermediate(pki.make_root(name="another root"))
    own = pki.to_pem(leaf.certificate)
    for wrong in (stranger.pem, root.pem + issuer.pem, own):
        with pytest.raises(SvidError, match="did not issue"):
            load_svid(own + wrong, leaf.key_pem)
    load_svid(own + issuer.pem + root.pem, leaf.key_pem)


def test_a_leaf_does_not_issue(issuer: pki.Authority) -> None:
    above = pki.make_svid(issuer, pki.CLIENT)
    fake = pki.Authority(above.certificate, above.key, (above.certificate, *above.intermediates))
    leaf = pki.make_svid(fake)
    with pytest.raises(SvidError, match="certificate 1 of the chain is not a CA"):
        load_svid(leaf.chain_pem, leaf.key_pem)


@pytest.mark.parametrize("chain", ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "\udcff"])
def test_a_chain_that_is_none(chain: str, issuer: pki.Authority) -> None:
    with pytest.raises(SvidError, match="chain cannot be read"):
        load_svid(chain, pki.make_svid(issuer).key_pem)


@pytest.mark.parametrize("key", ["", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "\udcff"])
def test_a_key_that_is_none(key: str, issuer: pki.Authority) -> None:
    with pytest.raises(SvidError, match="key cannot be read"):
        load_svid(pki.make_svid(issuer).chain_pem, key)


def test_a_chain_is_bounded(issuer: pki.Authority) -> None:
    leaf = pki.make_svid(issuer)
    with pytest.raises(SvidError, match="bound"):
        load_svid(leaf.chain_pem + issuer.pem * MAX_CHAIN_LENGTH, leaf.key_pem)
