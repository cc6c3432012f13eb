"""Joining, and certificates: request and answer bodies, and their paths.

All are POST with JSON bodies, but for the trust bundle (GET, no client certificate). A node authenticates with the
client certificate that joining gave it (``ids.node_id``). Errors are ``application/problem+json`` (RFC 9457) with
``title``, ``detail``, ``status`` and, where one field is at fault, ``errors: [{"field", "message"}]``.
"""

from __future__ import annotations

from dataclasses import dataclass

TRUST_BUNDLE_PATH = "/v1/trust-bundle"
JOIN_PATH = "/v1/join"
RENEW_PATH = "/v1/renew"
SVID_PATH = "/v1/svids"

TOKEN_PREFIX = "nm1"  # noqa: S105 (the form, not a secret)
"""A join token is ``nm1.<id>.<secret>.<sha256 of the root certificate's DER, hex>``: with it a node can tell control
from an impostor before it knows any root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustBundleAnswer:
    """The mesh's trust domain and its roots (PEM)."""

    trust_domain: str
    certificates: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRequest:
    """A node presents its token, once, and a PKCS#10 request (PEM) whose subject does not matter. With the name that
    it has by its own configuration, a token of another node is refused before it is spent."""

    token: str
    csr: str
    node: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewRequest:
    """A node asks for a new certificate of its own, authenticated by the one it has."""

    csr: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCertificate:
    """A node's certificate chain (PEM, leaf first) and what it needs to know of the mesh."""

    node: str
    chain: str
    trust_domain: str
    certificates: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SvidRequest:
    """A node asks for the SVID of an identity; granted only if a workload of that identity is placed on it."""

    identity: str
    csr: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SvidAnswer:
    """The signed chain (PEM, leaf first, without the root)."""

    chain: str
