"""What a worker holds, what it makes of it, and when that is made anew."""

from __future__ import annotations

from datetime import timedelta

import pytest
from OpenSSL import SSL

from nodeagent.identity import store as store_module
from nodeagent.identity.keys import SvidMaterial, load_svid
from nodeagent.identity.store import Certificates, NoIdentityError, SvidStore
from nodeagent.identity.tlsctx import BundleError
from tests.support import pki

TD = pki.TRUST_DOMAIN


def svid(issuer: pki.Authority, identity: str = pki.WEB) -> SvidMaterial:
    leaf = pki.make_svid(issuer, identity)
    return load_svid(leaf.chain_pem, leaf.key_pem)


@pytest.fixture
def store(issuer: pki.Authority, root: pki.Authority) -> SvidStore:
    filled = SvidStore()
    filled.set_bundle(TD, [root.pem])
    filled.put(svid(issuer))
    return filled


def test_it_is_what_the_relay_is_handed(store: SvidStore) -> None:
    certificates: Certificates = store
    assert isinstance(certificates.client_context(pki.WEB), SSL.Context)
    assert isinstance(certificates.server_context(pki.WEB), SSL.Context)


def test_contexts_are_made_once(store: SvidStore) -> None:
    assert store.client_context(pki.WEB) is store.client_context(pki.WEB)
    assert store.server_context(pki.WEB) is store.server_context(pki.WEB)
    assert store.client_context(pki.WEB) is not store.server_context(pki.WEB)


def test_a_new_svid_makes_new_contexts_and_a_new_generation(store: SvidStore, issuer: pki.Authority) -> None:
    other = svid(issuer, pki.CLIENT)
    store.put(other)
    before, other_before = store.generation(pki.WEB), store.generation(pki.CLIENT)
    context = store.client_context(pki.WEB)
    renewed = svid(issuer)
    assert store.put(renewed)
    assert store.generation(pki.WEB) > before and store.client_context(pki.WEB) is not context
    assert store.generation(pki.CLIENT) == other_before, "another identity's tunnels go on"
    assert not store.put(renewed), "the same again changes nothing"


def test_a_new_bundle_makes_everything_of_its_domain_new(store: SvidStore, root: pki.Authority) -> None:
    before, context = store.generation(pki.WEB), store.server_context(pki.WEB)
    assert not store.set_bundle(TD, [root.pem])
    assert store.generation(pki.WEB) == before
    assert store.set_bundle("other.example", [pki.make_root("other.example").pem])
    assert store.generation(pki.WEB) == before and store.server_context(pki.WEB) is context
    assert store.set_bundle(TD, [root.pem, pki.make_root(name="next").pem])
    assert store.generation(pki.WEB) > before and store.server_context(pki.WEB) is not context


def test_an_identity_that_went_and_came_back_is_a_new_generation(store: SvidStore, issuer: pki.Authority) -> None:
    material = svid(issuer)
    store.put(material)
    before = store.generation(pki.WEB)
    assert store.remove(pki.WEB) and not store.remove(pki.WEB)
    assert store.generation(pki.WEB) == 0 and store.expires(pki.WEB) is None and not store.usable(pki.WEB, pki.now())
    store.put(material)
    assert store.generation(pki.WEB) > before


@pytest.mark.parametrize("missing", ["svid", "bundle"])
def test_without_svid_or_bundle_there_is_no_context(missing: str, store: SvidStore) -> None:
    if missing == "svid":
        store.remove(pki.WEB)
    else:
        assert store.remove_bundle(TD)
    for make in (store.client_context, store.server_context):
        with pytest.raises(NoIdentityError, match=f"no {'SVID' if missing == 'svid' else 'trust bundle'}"):
            make(pki.WEB)
    assert store.generation(pki.WEB) == 0 and not store.usable(pki.WEB, pki.now())


def test_a_bundle_of_another_domain_does_not_serve(issuer: pki.Authority, root: pki.Authority) -> None:
    store = SvidStore()
    store.put(svid(issuer))
    store.set_bundle("other.example", [root.pem])
    assert not store.usable(pki.WEB, pki.now())
    with pytest.raises(NoIdentityError, match=TD):
        store.client_context(pki.WEB)


def test_a_bundle_that_cannot_be_used_leaves_none(store: SvidStore, issuer: pki.Authority) -> None:
    with pytest.raises(BundleError):
        store.set_bundle(TD, [issuer.pem])
    assert not store.usable(pki.WEB, pki.now()), "the former roots were replaced: they vouch for nobody any more"


def test_usable_only_while_valid(store: SvidStore) -> None:
    end = store.expires(pki.WEB)
    assert end is not None
    second = timedelta(seconds=1)
    assert store.usable(pki.WEB, pki.now()) and store.usable(pki.WEB, end - second)
    assert not store.usable(pki.WEB, end)
    assert not store.usable(pki.WEB, end - timedelta(days=2))


def test_the_number_of_identities_is_bounded(
    store: SvidStore, issuer: pki.Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "MAX_IDENTITIES", 1)
    with pytest.raises(NoIdentityError, match="holds 1 SVIDs"):
        store.put(svid(issuer, pki.CLIENT))
    assert store.put(svid(issuer)), "a renewal is no new identity"
    assert store.identities() == {pki.WEB}
