"""Real handshakes over memory: who gets through, who does not, and what is said about it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from OpenSSL import SSL, crypto

from nodeagent.identity.keys import SvidMaterial, load_svid
from nodeagent.identity.openssl import TlsError
from nodeagent.identity.spiffe import PeerCertificateError
from nodeagent.identity.tlsctx import (
    MAX_BUNDLE,
    BundleError,
    ChoosingContext,
    authenticate,
    client_context,
    server_context,
)
from nodeagent.tunnel.tls import TlsSession
from tests.support import pki
from tests.support.foreign_tls import ForeignTls

MAX_ROUNDS = 10
Context = SSL.Context | ChoosingContext | ssl.SSLContext
"""Ours, or the standard library's for a peer that is not ours."""


class OurEnd:
    """One end of ours; ``tls`` is what ``authenticate`` looks at."""

    def __init__(self, context: SSL.Context | ChoosingContext, *, server_side: bool, name: str | None) -> None:
        self.tls = context.connection() if isinstance(context, ChoosingContext) else SSL.Connection(context, None)
        if name is not None and not server_side:
            self.tls.set_tlsext_host_name(name.encode())
        self._session = TlsSession(self.tls, server_side=server_side)
        self.handshake, self.take_output = self._session.handshake, self._session.take_output

    def feed(self, data: bytes) -> None:
        self._session.feed(data)
        for _ in self._session.pieces():
            pass


class ForeignEnd(ForeignTls):
    def feed(self, data: bytes) -> None:
        super().feed(data)
        self.read()


@dataclass
class Link:
    """Two ends of TLS joined by memory; ``errors`` holds what each raised."""

    client: OurEnd | ForeignEnd
    server: OurEnd | ForeignEnd
    errors: dict[str, Exception] = field(default_factory=dict)


def end_of(context: Context, *, server_side: bool, name: str | None) -> OurEnd | ForeignEnd:
    if isinstance(context, ssl.SSLContext):
        return ForeignEnd(context, server_side=server_side, name=None if server_side else name)
    return OurEnd(context, server_side=server_side, name=name)


def shake(client: Context, server: Context, name: str | None = "web-0.shop.workload") -> Link:
    """Handshake until both ends have nothing more to say; an alert is read too."""
    link = Link(
        end_of(client, server_side=False, name=name),
        end_of(server, server_side=True, name=name),
    )
    link.client.handshake()
    for _ in range(MAX_ROUNDS):
        for side, source, target in (("server", link.client, link.server), ("client", link.server, link.client)):
            data = source.take_output()
            if not data or side in link.errors:
                continue
            try:
                target.feed(data)
            except (ssl.SSLError, TlsError) as error:
                link.errors[side] = error
    return link


def ours(end: OurEnd | ForeignEnd) -> SSL.Connection:
    assert isinstance(end, OurEnd)
    return end.tls


def foreign(end: OurEnd | ForeignEnd) -> ssl.SSLObject:
    assert isinstance(end, ForeignEnd)
    return end.object


def material(leaf: pki.Leaf) -> SvidMaterial:
    return load_svid(leaf.chain_pem, leaf.key_pem)


def raw(protocol: int, leaf: pki.Leaf | None, root: pki.Authority, tmp_path: Path) -> ssl.SSLContext:
    """A peer that is not ours: whatever certificate, checked by nobody on its side."""
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=root.pem)
    context.set_alpn_protocols(["h2"])
    if leaf is not None:
        path = tmp_path / "peer.pem"
        path.write_text(leaf.key_pem + leaf.chain_pem)
        context.load_cert_chain(path)
    return context


@pytest.fixture(scope="module")
def web(issuer: pki.Authority) -> SvidMaterial:
    return material(pki.make_svid(issuer, pki.WEB))


@pytest.fixture(scope="module")
def server(web: SvidMaterial, root: pki.Authority) -> SSL.Context:
    return server_context(web, [root.pem])


@pytest.fixture(scope="module")
def client(issuer: pki.Authority, root: pki.Authority) -> SSL.Context:
    return client_context(material(pki.make_svid(issuer, pki.CLIENT)), [root.pem])


def test_two_workloads_know_each_other(client: SSL.Context, server: SSL.Context) -> None:
    link = shake(client, server)
    assert not link.errors
    assert str(authenticate(ours(link.server), pki.now(), pki.TRUST_DOMAIN).spiffe_id) == pki.CLIENT
    assert str(authenticate(ours(link.client), pki.now(), pki.TRUST_DOMAIN).spiffe_id) == pki.WEB
    assert ours(link.client).get_cipher_name() == "TLS_AES_128_GCM_SHA256"
    for end in (link.client, link.server):
        assert ours(end).get_alpn_proto_negotiated() == b"h2"
        assert ours(end).get_group_name() == "X25519MLKEM768"


def test_without_a_server_name_too(client: SSL.Context, server: SSL.Context) -> None:
    assert not shake(client, server, None).errors


def test_nobody_resumes_a_session(
    server: SSL.Context, issuer: pki.Authority, root: pki.Authority, tmp_path: Path
) -> None:
    context = raw(ssl.PROTOCOL_TLS_CLIENT, pki.make_svid(issuer, pki.CLIENT), root, tmp_path)
    first = foreign(shake(context, server).client).session
    again = OurEnd(server, server_side=True, name=None)
    peer = ForeignEnd(context)
    peer.object.session = first  # type: ignore[misc]  # offered, and not taken: the whole handshake is done again
    peer.handshake()
    for _ in range(MAX_ROUNDS):
        again.feed(peer.take_output())
        peer.feed(again.take_output())
    assert peer.established and not peer.object.session_reused
    assert str(authenticate(again.tls, pki.now(), pki.TRUST_DOMAIN).spiffe_id) == pki.CLIENT


@pytest.fixture(scope="module")
def front(issuer: pki.Authority, root: pki.Authority) -> ChoosingContext:
    """Answers as ``one`` and ``two``, and as ``one`` to whoever names nobody."""
    prefix = f"spiffe://{pki.TRUST_DOMAIN}/ns/shop/sa/"
    contexts: dict[str | None, SSL.Context] = {
        name: server_context(material(pki.make_svid(issuer, prefix + name)), [root.pem]) for name in ("one", "two")
    }
    contexts[None] = contexts["one"]
    return ChoosingContext(lambda _, name: contexts.get(name))


@pytest.mark.parametrize(("name", "answers"), [("one", "one"), ("two", "two"), (None, "one")])
def test_the_server_name_picks_the_certificate(
    name: str | None, answers: str, front: ChoosingContext, client: SSL.Context
) -> None:
    link = shake(client, front, name)
    assert not link.errors
    assert authenticate(ours(link.client), pki.now(), pki.TRUST_DOMAIN).spiffe_id.service_account == answers
    assert authenticate(ours(link.server), pki.now(), pki.TRUST_DOMAIN).spiffe_id.service_account == "client"


def test_a_server_name_of_nobody_is_refused(front: ChoosingContext, client: SSL.Context) -> None:
    link = shake(client, front, "three")
    assert "server" in link.errors and "unrecognized name" in str(link.errors["client"])


@pytest.mark.parametrize("peer", ["stranger", "nobody", "TLS 1.2"])
def test_whichever_certificate_is_picked_the_client_is_judged_all_the_same(
    peer: str, front: ChoosingContext, issuer: pki.Authority, root: pki.Authority, tmp_path: Path
) -> None:
    foreign = pki.make_intermediate(pki.make_root())
    leaf = {"stranger": pki.make_svid(foreign, pki.CLIENT), "nobody": None, "TLS 1.2": pki.make_svid(issuer)}[peer]
    context = raw(ssl.PROTOCOL_TLS_CLIENT, leaf, root, tmp_path)
    if peer == "TLS 1.2":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    link = shake(context, front, "one")
    assert "server" in link.errors
    with pytest.raises(PeerCertificateError):
        authenticate(ours(link.server), pki.now(), pki.TRUST_DOMAIN)


def test_a_root_of_another_mesh_of_the_same_name(server: SSL.Context, client: SSL.Context, root: pki.Authority) -> None:
    foreign = pki.make_intermediate(pki.make_root())
    as_client = client_context(material(pki.make_svid(foreign, pki.CLIENT)), [root.pem])
    as_server = server_context(material(pki.make_svid(foreign)), [root.pem])
    assert "verify failed" in str(shake(as_client, server).errors["server"])
    assert "verify failed" in str(shake(client, as_server).errors["client"])


def test_a_root_of_another_trust_domain(server: SSL.Context, root: pki.Authority) -> None:
    other = pki.make_root("other.example")
    leaf = pki.make_svid(other, "spiffe://other.example/ns/shop/sa/client")
    assert "verify failed" in str(shake(client_context(material(leaf), [root.pem]), server).errors["server"])


def test_our_root_with_another_trust_domain_in_the_leaf(
    server: SSL.Context, issuer: pki.Authority, root: pki.Authority
) -> None:
    leaf = pki.make_svid(issuer, "spiffe://other.example/ns/shop/sa/client")
    link = shake(client_context(material(leaf), [root.pem]), server)
    assert not link.errors
    with pytest.raises(PeerCertificateError, match="another trust domain"):
        authenticate(ours(link.server), pki.now(), pki.TRUST_DOMAIN)


def test_expired(client: SSL.Context, server: SSL.Context, issuer: pki.Authority, root: pki.Authority) -> None:
    old = material(pki.BAD_SVIDS["expired"](issuer))
    assert "expired" in str(shake(client_context(old, [root.pem]), server).errors["server"])
    assert "expired" in str(shake(client, server_context(old, [root.pem])).errors["client"])


@pytest.mark.parametrize(
    "fault", ["CA as leaf", "CA flag", "two URI SANs", "no URI SAN", "no SAN at all", "a node's identity"]
)
@pytest.mark.parametrize("side", ["client", "server"])
def test_what_openssl_lets_through_is_refused_afterwards(
    fault: str, side: str, issuer: pki.Authority, root: pki.Authority, tmp_path: Path,
    client: SSL.Context, server: SSL.Context,
) -> None:  # fmt: skip
    leaf = pki.BAD_SVIDS[fault](issuer)
    if side == "client":
        link = shake(raw(ssl.PROTOCOL_TLS_CLIENT, leaf, root, tmp_path), server)
        mine = link.server
    else:
        link = shake(client, raw(ssl.PROTOCOL_TLS_SERVER, leaf, root, tmp_path))
        mine = link.client
    if link.errors:
        assert "verify failed" in str(link.errors["server" if side == "client" else "client"])
        return
    with pytest.raises(PeerCertificateError):
        authenticate(ours(mine), pki.now(), pki.TRUST_DOMAIN)


def test_a_client_without_a_certificate(server: SSL.Context, root: pki.Authority, tmp_path: Path) -> None:
    link = shake(raw(ssl.PROTOCOL_TLS_CLIENT, None, root, tmp_path), server)
    assert "did not return a certificate" in str(link.errors["server"])
    with pytest.raises(PeerCertificateError):
        authenticate(ours(link.server), pki.now(), pki.TRUST_DOMAIN)


def test_tls_1_2_is_refused_by_both_ends(
    client: SSL.Context, server: SSL.Context, issuer: pki.Authority, root: pki.Authority, tmp_path: Path
) -> None:
    leaf = pki.make_svid(issuer)
    for protocol, side in ((ssl.PROTOCOL_TLS_CLIENT, "server"), (ssl.PROTOCOL_TLS_SERVER, "client")):
        old = raw(protocol, leaf, root, tmp_path)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        link = shake(old, server) if side == "server" else shake(client, old)
        assert "protocol" in str(link.errors[side]).lower()


@pytest.mark.parametrize("offered", [[], ["http/1.1"]])
def test_a_peer_that_does_not_speak_h2(
    offered: list[str], server: SSL.Context, issuer: pki.Authority, root: pki.Authority, tmp_path: Path
) -> None:
    peer = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    peer.check_hostname = False
    peer.load_verify_locations(cadata=root.pem)
    leaf = pki.make_svid(issuer, pki.CLIENT)
    (tmp_path / "p.pem").write_text(leaf.key_pem + leaf.chain_pem)
    peer.load_cert_chain(tmp_path / "p.pem")
    if offered:
        peer.set_alpn_protocols(offered)
    link = shake(peer, server)
    with pytest.raises(PeerCertificateError, match="h2"):
        authenticate(ours(link.server), pki.now(), pki.TRUST_DOMAIN)


def test_overlapping_roots_serve_both(issuer: pki.Authority, root: pki.Authority, client: SSL.Context) -> None:
    new_root = pki.make_root(name="next root")
    new = material(pki.make_svid(pki.make_intermediate(new_root)))
    both = [root.pem, new_root.pem]
    for svid in (new, material(pki.make_svid(issuer))):
        peer = client_context(material(pki.make_svid(issuer, pki.CLIENT)), both)
        assert not shake(peer, server_context(svid, both)).errors
    assert shake(client, server_context(new, both)).errors, "who does not know the new root refuses it"


def test_an_intermediate_in_the_bundle_vouches_for_nothing(web: SvidMaterial, issuer: pki.Authority) -> None:
    for make in (client_context, server_context):
        with pytest.raises(BundleError, match="is not a root"):
            make(web, [issuer.pem])


def test_openssl_would_not_take_an_intermediate_as_an_anchor_either(
    client: SSL.Context, web: SvidMaterial, root: pki.Authority, issuer: pki.Authority
) -> None:
    context = client_context(web, [pki.make_root(name="unrelated").pem])
    store = context.get_cert_store()
    assert store is not None
    store.add_cert(crypto.X509.from_cryptography(x509.load_pem_x509_certificate(issuer.pem.encode())))
    assert "verify failed" in str(shake(context, server_context(web, [root.pem])).errors["client"])


def _self_signed_leaf() -> str:
    # a "root" that is no CA: issued by itself, but an end certificate
    shell = pki.Authority(pki.make_root().certificate, pki.make_key())
    shape = pki.LeafShape(subject=f"root of {pki.TRUST_DOMAIN}")
    return pki.to_pem(pki.make_leaf(shell, shape, shell.key).certificate)


@pytest.mark.parametrize(
    ("bundle", "says"),
    [
        ([], "empty"),
        ([""], "not a root"),
        (["garbage"], "not a root"),
        ([_self_signed_leaf()], "is not a CA"),
    ],
)
def test_a_bundle_that_cannot_be_used(bundle: list[str], says: str, web: SvidMaterial) -> None:
    with pytest.raises(BundleError, match=says):
        server_context(web, bundle)


def test_a_bundle_is_bounded_and_holds_one_certificate_an_entry(web: SvidMaterial, root: pki.Authority) -> None:
    with pytest.raises(BundleError, match="bound"):
        server_context(web, [root.pem] * (MAX_BUNDLE + 1))
    with pytest.raises(BundleError, match="2 certificates"):
        server_context(web, [root.pem * 2])


def test_no_descriptor_and_no_file_is_left(web: SvidMaterial, root: pki.Authority) -> None:
    before = {p.readlink() for p in Path("/proc/self/fd").iterdir() if p.exists()}
    count = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        server_context(web, [root.pem])
    assert len(list(Path("/proc/self/fd").iterdir())) == count
    after = {p.readlink() for p in Path("/proc/self/fd").iterdir() if p.exists()}
    assert not any("memfd" in str(target) for target in after - before)
