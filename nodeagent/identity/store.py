"""The SVIDs and bundles that a worker holds, and the TLS contexts made of them.

An identity can be used if its SVID and its trust domain's bundle are both here. ``generation`` changes whenever either
does: whatever was made from them (a pool of tunnels) is keyed by it, and so dies with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from OpenSSL import SSL

from nodeagent.identity.keys import SvidMaterial
from nodeagent.identity.tlsctx import check_bundle, client_context, server_context

MAX_IDENTITIES = 10_000
"""SVIDs that one node may hold."""


class NoIdentityError(Exception):
    """An identity cannot be used; the message says what is missing. The reason for records is NO_IDENTITY."""


class Certificates(Protocol):
    """What the relay is handed: certificates to use, none to change."""

    def client_context(self, identity: str) -> SSL.Context:
        """To open tunnels as ``identity`` (a SPIFFE ID); NoIdentityError if it has no SVID or no bundle."""

    def server_context(self, identity: str) -> SSL.Context:
        """To answer tunnels as ``identity``; NoIdentityError if it has no SVID or no bundle."""

    def generation(self, identity: str) -> int:
        """A number that is new whenever the SVID or the bundle is; 0 while the identity cannot be used."""

    def expires(self, identity: str) -> datetime | None:
        """When its SVID expires; None without one."""

    def usable(self, identity: str, now: datetime) -> bool:
        """Whether the identity can be used at ``now``: SVID here and valid, bundle here. Ask before each handshake."""


@dataclass(slots=True)
class _Credential:
    svid: SvidMaterial
    generation: int
    contexts: dict[str, SSL.Context] = field(default_factory=dict)


class SvidStore:
    """The writer's side of ``Certificates``. Contexts are made at first use and kept until SVID or bundle change."""

    def __init__(self) -> None:
        self._entries: dict[str, _Credential] = {}
        self._bundles: dict[str, tuple[str, ...]] = {}
        self._last = 0

    def _next(self) -> int:
        self._last += 1
        return self._last

    def put(self, svid: SvidMaterial) -> bool:
        """Take an SVID (``keys.load_svid`` has checked it) in place of the one before; whether it differs."""
        identity = str(svid.identity)
        old = self._entries.get(identity)
        if old is not None and old.svid == svid:
            return False
        if old is None and len(self._entries) >= MAX_IDENTITIES:
            raise NoIdentityError(f"{identity}: the node holds {MAX_IDENTITIES} SVIDs already")
        self._entries[identity] = _Credential(svid, self._next())
        return True

    def remove(self, identity: str) -> bool:
        """Take an identity away; whether it was here."""
        return self._entries.pop(identity, None) is not None

    def set_bundle(self, trust_domain: str, certificates: Sequence[str]) -> bool:
        """Replace a trust domain's roots (PEM, one certificate each); whether they differ.

        ``tlsctx.BundleError`` if they cannot be used: the domain then has no bundle, since the former one was replaced.
        """
        bundle = tuple(certificates)
        if self._bundles.get(trust_domain) == bundle:
            return False
        self.remove_bundle(trust_domain)
        check_bundle(bundle)
        self._bundles[trust_domain] = bundle
        return True

    def remove_bundle(self, trust_domain: str) -> bool:
        """Trust nobody of that domain any more; whether it was trusted before."""
        for identity, entry in self._entries.items():
            if entry.svid.identity.trust_domain == trust_domain:
                self._entries[identity] = _Credential(entry.svid, self._next())
        return self._bundles.pop(trust_domain, None) is not None

    def identities(self) -> frozenset[str]:
        """Every identity with an SVID, usable or not."""
        return frozenset(self._entries)

    def client_context(self, identity: str) -> SSL.Context:
        """See ``Certificates``."""
        entry, bundle = self._find(identity)
        context = entry.contexts.get("client")
        if context is None:
            context = entry.contexts["client"] = client_context(entry.svid, bundle)
        return context

    def server_context(self, identity: str) -> SSL.Context:
        """See ``Certificates``."""
        entry, bundle = self._find(identity)
        context = entry.contexts.get("server")
        if context is None:
            context = entry.contexts["server"] = server_context(entry.svid, bundle)
        return context

    def _find(self, identity: str) -> tuple[_Credential, tuple[str, ...]]:
        entry = self._entries.get(identity)
        if entry is None:
            raise NoIdentityError(f"{identity}: no SVID on this node")
        bundle = self._bundles.get(entry.svid.identity.trust_domain)
        if bundle is None:
            raise NoIdentityError(f"{identity}: no trust bundle of {entry.svid.identity.trust_domain}")
        return entry, bundle

    def generation(self, identity: str) -> int:
        """See ``Certificates``."""
        entry = self._entries.get(identity)
        if entry is None or entry.svid.identity.trust_domain not in self._bundles:
            return 0
        return entry.generation

    def expires(self, identity: str) -> datetime | None:
        """See ``Certificates``."""
        entry = self._entries.get(identity)
        return None if entry is None else entry.svid.not_after

    def usable(self, identity: str, now: datetime) -> bool:
        """See ``Certificates``."""
        entry = self._entries.get(identity)
        if entry is None or entry.svid.identity.trust_domain not in self._bundles:
            return False
        return entry.svid.not_before <= now < entry.svid.not_after
