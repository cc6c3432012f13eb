"""One-time join tokens: kept as hashes, each for one node, each good once, also when two use it at the same moment."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from control.kinds import node as nodes
from control.kinds.base.fault import Fault
from control.registry.errors import Invalid, Missing, TokenRefused
from control.registry.registry import store_key
from control.store.base import Conflict, KeyValue, Store
from control.wire.signing import TOKEN_PREFIX

PREFIX = "/tokens/"
ID_BYTES = 6
SECRET_BYTES = 32
DEFAULT_TTL = 3600.0
MIN_TTL = 1.0
MAX_TTL = 30 * 24 * 3600.0
MAX_TOKENS = 10_000
MAX_TOKEN_CHARACTERS = 256
MAX_NAME_CHARACTERS = 63

_UNKNOWN = (
    "the join token is not known (never made, revoked, or expired and forgotten); make another: meshctl token create"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A join token as operators see it: never with its secret."""

    id: str
    node: str
    created: float
    expires: float
    """Wall clock, seconds since 1970."""
    used: float | None = None


class Tokens:
    """Makes and redeems join tokens."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock

    def create(self, node: str, root_fingerprint: str, ttl: float = DEFAULT_TTL) -> tuple[Token, str]:
        """(what is kept, the token itself, shown this once). Missing if there is no such Node."""
        if self._store.get(store_key((nodes.KIND.name, "", node))) is None:
            message = "not found; apply the Node first, then make its token"
            raise Missing([Fault(message, "node", subject=f"{nodes.KIND.name} {node}")])
        if len(self._store.range(PREFIX).items) >= MAX_TOKENS:
            raise Invalid([Fault(f"there are {MAX_TOKENS} join tokens; revoke some, or wait until they expire")])
        now = self._clock()
        identifier, secret = secrets.token_hex(ID_BYTES), secrets.token_urlsafe(SECRET_BYTES)
        token = Token(id=identifier, node=node, created=now, expires=now + ttl)
        lease = self._store.grant(ttl)
        self._store.put(PREFIX + identifier, _write(token, _hash(secret)), expect=0, lease=lease.id)
        return token, f"{TOKEN_PREFIX}.{identifier}.{secret}.{root_fingerprint}"

    def list(self) -> list[Token]:
        """All that are remembered, used ones too, oldest first."""
        found = [_read(item)[0] for item in self._store.range(PREFIX).items]
        return sorted(found, key=lambda token: token.created)

    def revoke(self, identifier: str) -> None:
        """Forget the token; Missing if there is none."""
        item = self._item(identifier)
        if item is None:
            raise Missing([Fault("not found", subject=f"token {identifier[:40]}")])
        with contextlib.suppress(Conflict):
            self._store.delete(item.key, expect=item.mod_revision)

    def redeem(self, text: str, node: str = "") -> str:
        """The node that the token admits; from now on it is used. TokenRefused says why not; a token that is not
        ``node``'s (if that is given) stays unused."""
        parts = text.split(".")
        if len(text) > MAX_TOKEN_CHARACTERS or len(parts) != 4 or parts[0] != TOKEN_PREFIX:
            raise TokenRefused(f"this is not a join token ({TOKEN_PREFIX}.<id>.<secret>.<fingerprint>)")
        item = self._item(parts[1])
        if item is None:
            raise TokenRefused(_UNKNOWN)
        token, expected = _read(item)
        if not hmac.compare_digest(expected, _hash(parts[2])):
            raise TokenRefused(_UNKNOWN)
        if token.used is not None:
            raise _already_used(token)
        now = self._clock()
        if now >= token.expires:
            raise TokenRefused(f"the join token has expired; make another: meshctl token create --node {token.node}")
        if node not in ("", token.node):
            raise TokenRefused(
                f"the join token is for node {token.node!r}, this node calls itself {node[:MAX_NAME_CHARACTERS]!r}; "
                "set the node's name right, or make a token for that name. The token was not spent"
            )
        return self._mark_used(item, token, expected, now)

    def _mark_used(self, item: KeyValue, token: Token, hashed: str, now: float) -> str:
        used = Token(id=token.id, node=token.node, created=token.created, expires=token.expires, used=now)
        try:
            self._store.put(item.key, _write(used, hashed), expect=item.mod_revision, lease=item.lease)
        except Conflict:
            raise _already_used(token) from None
        return token.node

    def _item(self, identifier: str) -> KeyValue | None:
        if not identifier.isascii() or not identifier.isalnum():
            return None
        return self._store.get(PREFIX + identifier)


def _already_used(token: Token) -> TokenRefused:
    return TokenRefused(
        f"the join token was already used; each is good once, make another: meshctl token create --node {token.node}"
    )


def _hash(secret: str) -> str:
    # The secret has 256 random bits: a plain hash cannot be searched.
    return hashlib.sha256(secret.encode()).hexdigest()


def _write(token: Token, hashed: str) -> bytes:
    return json.dumps(
        {
            "id": token.id,
            "node": token.node,
            "created": token.created,
            "expires": token.expires,
            "used": token.used,
            "hash": hashed,
        }
    ).encode()


def _read(item: KeyValue) -> tuple[Token, str]:
    value: dict[str, Any] = json.loads(item.value)
    hashed = value.pop("hash")
    return Token(**value), hashed
