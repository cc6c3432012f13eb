"""A join token admits one node, once, in time; and the store never learns its secret."""

from __future__ import annotations

import contextlib
import threading

import pytest

from control.registry.errors import Missing, TokenRefused
from control.registry.tokens import Tokens
from control.store.base import KeyValue
from control.store.memory import MemoryStore
from tests.support.mesh import Clock, make_registry, node

ROOT = "ab" * 32


class Desk:
    def __init__(self) -> None:
        self.clock = Clock()
        registry, self.store = make_registry(self.clock)
        registry.apply([node()])
        self.tokens = Tokens(self.store, self.clock)

    def make(self, ttl: float = 60) -> str:
        return self.tokens.create("node-a", ROOT, ttl)[1]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def stored(store: MemoryStore) -> bytes:
    return b"".join(item.value for item in store.range("/").items)


def test_a_token_is_good_once(desk: Desk) -> None:
    text = desk.make()
    prefix, identifier, secret, fingerprint = text.split(".")
    assert (prefix, fingerprint) == ("nm1", ROOT)
    assert secret.encode() not in stored(desk.store)
    assert desk.tokens.redeem(text) == "node-a"
    with pytest.raises(TokenRefused, match="already used"):
        desk.tokens.redeem(text)
    (kept,) = desk.tokens.list()
    assert (kept.id, kept.node, kept.used) == (identifier, "node-a", desk.clock.now)


def test_of_many_at_the_same_moment_one_is_admitted(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    text = desk.make()
    admitted: list[str] = []
    barrier = threading.Barrier(16)
    read = desk.store.get

    def read_together(key: str) -> KeyValue | None:
        found = read(key)
        # Nobody writes before everybody has read the token as unused.
        barrier.wait(20)
        return found

    monkeypatch.setattr(desk.store, "get", read_together)

    def use() -> None:
        with contextlib.suppress(TokenRefused):
            admitted.append(desk.tokens.redeem(text))

    threads = [threading.Thread(target=use) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert admitted == ["node-a"]


def test_an_expired_token_is_refused_even_before_its_lease_is_swept(desk: Desk) -> None:
    text = desk.make(ttl=60)
    desk.clock.now += 60
    with pytest.raises(TokenRefused, match="expired"):
        desk.tokens.redeem(text)
    assert desk.store.expire() == 1
    with pytest.raises(TokenRefused, match="not known"):
        desk.tokens.redeem(text)
    assert desk.tokens.list() == []


def test_what_is_wrong_is_refused_and_costs_nothing(desk: Desk) -> None:
    text = desk.make()
    prefix, identifier, secret, fingerprint = text.split(".")
    for wrong in (
        "",
        "x",
        "nm1...",
        f"nm2.{identifier}.{secret}.{fingerprint}",
        f"{prefix}.{identifier}.{secret}x.{fingerprint}",
        f"{prefix}.{identifier}..{fingerprint}",
        f"{prefix}.000000000000.{secret}.{fingerprint}",
        f"{prefix}.../{identifier}.{secret}.{fingerprint}",
        f"{prefix}.é.{secret}.{fingerprint}",
        "nm1." + "x" * 10_000,
    ):
        with pytest.raises(TokenRefused):
            desk.tokens.redeem(wrong)
    assert desk.tokens.redeem(text) == "node-a"


def test_a_token_is_for_a_node_that_exists(desk: Desk) -> None:
    with pytest.raises(Missing, match="apply the Node first"):
        desk.tokens.create("node-b", ROOT)


def test_revoking(desk: Desk) -> None:
    text = desk.make()
    desk.tokens.revoke(text.split(".")[1])
    with pytest.raises(TokenRefused, match="not known"):
        desk.tokens.redeem(text)
    for identifier in ("nope", "", "a/b", "é"):
        with pytest.raises(Missing):
            desk.tokens.revoke(identifier)


def test_a_token_of_another_node_is_refused_and_not_spent(desk: Desk) -> None:
    text = desk.make()
    with pytest.raises(TokenRefused, match=r"for node 'node-a', this node calls itself 'node-b'.*not spent"):
        desk.tokens.redeem(text, "node-b")
    assert desk.tokens.redeem(text, "node-a") == "node-a"
