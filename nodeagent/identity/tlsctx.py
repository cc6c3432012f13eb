"""TLS contexts for tunnels: TLS 1.3 only, certificates on both sides, ALPN h2, nothing on disk.

A context verifies the peer's chain against one trust domain's bundle and nothing else. Whose certificate it is, and
whether it is an SVID at all, is checked after the handshake by ``authenticate`` (SVIDs carry no DNS names, so hostname
checking has nothing to say). Call it on both sides, before the first byte of the peer is believed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final
from weakref import WeakValueDictionary

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from OpenSSL import SSL, crypto

from nodeagent.identity.keys import SvidMaterial
from nodeagent.identity.openssl import ffi, handle, lib
from nodeagent.identity.spiffe import PeerCertificateError, PeerIdentity, check_peer_chain

ALPN: Final = b"h2"
CIPHERSUITES: Final = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384"
"""AES-128 first, as other proxies choose: it costs a tenth less."""
MAX_BUNDLE = 64
"""Roots of one trust domain; more is not a rotation but a mistake."""


class BundleError(ValueError):
    """A trust bundle cannot be used; the message says which certificate and why."""


def check_bundle(bundle_pems: Sequence[str]) -> None:
    """BundleError unless there are roots and each is a self-signed CA: an intermediate vouches for nothing here."""
    if not bundle_pems:
        raise BundleError("the trust bundle is empty")
    if len(bundle_pems) > MAX_BUNDLE:
        raise BundleError(f"the trust bundle has {len(bundle_pems)} certificates (bound: {MAX_BUNDLE})")
    for index, pem in enumerate(bundle_pems):
        try:
            certificates = x509.load_pem_x509_certificates(pem.encode("utf-8", "replace"))
            if len(certificates) != 1:
                raise BundleError(f"entry {index} of the trust bundle holds {len(certificates)} certificates, not one")
            _check_root(certificates[0])
        except BundleError:
            raise
        # whatever a parser makes of it, it is no root
        except Exception as error:
            raise BundleError(f"certificate {index} of the trust bundle is not a root: {error!r}") from error


def _check_root(root: x509.Certificate) -> None:
    name = root.subject.rfc4514_string()
    if root.subject != root.issuer:
        raise BundleError(f"{name!r} in the trust bundle is not a root: {root.issuer.rfc4514_string()!r} issued it")
    root.verify_directly_issued_by(root)
    if not root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
        raise BundleError(f"{name!r} in the trust bundle is not a CA")
    if not root.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign:
        raise BundleError(f"{name!r} in the trust bundle may not sign certificates (key usage)")


def client_context(svid: SvidMaterial, bundle_pems: Sequence[str]) -> SSL.Context:
    """To open tunnels as the SVID's workload."""
    context = _context(SSL.TLS_CLIENT_METHOD, svid, bundle_pems)
    context.set_alpn_protos([ALPN])
    return context


def server_context(svid: SvidMaterial, bundle_pems: Sequence[str]) -> SSL.Context:
    """To answer tunnels as the SVID's workload. Nothing is resumed: a resumed session would skip the new checks."""
    return _context(SSL.TLS_SERVER_METHOD, svid, bundle_pems)


Choose = Callable[[SSL.Connection, str | None], SSL.Context | None]


class ChoosingContext:
    """To answer tunnels before it is known as whom.

    ``choose`` gets the connection and the server name (or None) and gives the ``server_context`` to go on with, whose
    bundle judges the client too; None refuses the peer (unrecognized_name).
    """

    def __init__(self, choose: Choose) -> None:
        self._choose = choose
        self._connections: WeakValueDictionary[Any, SSL.Connection] = WeakValueDictionary()
        self._context = _bare_context(SSL.TLS_SERVER_METHOD)
        # pyOpenSSL's own callback cannot refuse without a traceback on stderr
        self._callback = ffi.callback("int(SSL *, int *, void *)", self._on_server_name, error=_REFUSE)
        lib.SSL_CTX_set_tlsext_servername_callback(self._context._context, self._callback)

    def connection(self) -> SSL.Connection:
        """A connection whose certificate is chosen during its handshake."""
        made = SSL.Connection(self._context, None)
        self._connections[handle(made)] = made
        return made

    def _on_server_name(self, ssl: Any, _alert: Any, _argument: Any) -> int:
        connection = self._connections[ssl]
        name = connection.get_servername()
        chosen = self._choose(connection, name.decode("ascii", "replace") if name is not None else None)
        if chosen is None:
            return _REFUSE
        connection.set_context(chosen)
        return int(lib.SSL_TLSEXT_ERR_OK)


_REFUSE: Final[int] = lib.SSL_TLSEXT_ERR_ALERT_FATAL
"""The alert is unrecognized_name unless one says otherwise."""


def _context(method: int, svid: SvidMaterial, bundle_pems: Sequence[str]) -> SSL.Context:
    check_bundle(bundle_pems)
    context = _bare_context(method)
    store = context.get_cert_store()
    if store is None:
        raise BundleError("OpenSSL gave a context without a place for roots")
    for pem in bundle_pems:
        store.add_cert(crypto.X509.from_cryptography(x509.load_pem_x509_certificate(pem.encode())))
    leaf, *others = x509.load_pem_x509_certificates(svid.chain_pem.encode())
    context.use_certificate(leaf)
    for issuer in others:
        context.add_extra_chain_cert(issuer)
    context.use_privatekey(load_pem_private_key(svid.key_pem.encode(), None))  # type: ignore[arg-type]
    return context


def _bare_context(method: int) -> SSL.Context:
    context = SSL.Context(method)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_max_proto_version(SSL.TLS1_3_VERSION)
    context.set_tls13_ciphersuites(CIPHERSUITES)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
    # no session is kept, so no ticket can resume one
    context.set_options(SSL.OP_NO_TICKET)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(b"nodemesh")
    store = context.get_cert_store()
    if store is not None:
        # PARTIAL_CHAIN stays off: a chain must end at a root, an intermediate that slipped in as an anchor is none
        store.set_flags(crypto.X509StoreFlags.X509_STRICT)
    if method == SSL.TLS_SERVER_METHOD:
        context.set_alpn_select_callback(_select_alpn)
    return context


def _select_alpn(_: SSL.Connection, offered: list[bytes]) -> Any:
    return ALPN if ALPN in offered else SSL.NO_OVERLAPPING_PROTOCOLS


def authenticate(tls: SSL.Connection, now: datetime, trust_domain: str) -> PeerIdentity:
    """Who is at the other end of a finished handshake; PeerCertificateError (close the connection) if nobody proved."""
    if tls.get_peer_finished() is None or lib.SSL_get_verify_result(handle(tls)) != lib.X509_V_OK:
        raise PeerCertificateError("the handshake is not finished")
    if tls.get_protocol_version_name() != "TLSv1.3":
        raise PeerCertificateError(f"{tls.get_protocol_version_name()} was negotiated, not TLSv1.3")
    if tls.get_alpn_proto_negotiated() != ALPN:
        raise PeerCertificateError(f"the peer does not speak h2 (ALPN: {tls.get_alpn_proto_negotiated()!r})")
    leaf = tls.get_peer_certificate(as_cryptography=True)
    if leaf is None:
        raise PeerCertificateError("the peer showed no certificate")
    return check_peer_chain(leaf.public_bytes(Encoding.DER), now, trust_domain)
