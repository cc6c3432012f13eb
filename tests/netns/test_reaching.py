"""Servers that are slow to accept, and nodes that do not answer at their first address."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.netns import resources
from tests.netns.conftest import MakeShop
from tests.netns.lab import eventually
from tests.netns.servers import echo, read_exactly
from tests.netns.shop import TARGET_PORT, Behind, Family, Shop
from tests.netns.spot import IO_SECONDS

OLD_LIMIT_SECONDS = 11.0
"""The agent once reset whoever waited this long."""
NOBODY = ("10.77.0.99", "fd77::99")
"""Addresses of no host of the network: nothing answers there, not even with a refusal."""


@pytest.fixture(scope="module")
def shop(make_shop: MakeShop) -> Shop:
    """A mesh whose nodes may be moved."""
    return make_shop()


@pytest.fixture
def dead_first(shop: Shop) -> Iterator[None]:
    """The first address of each family leads nowhere."""
    mesh = shop.mesh
    mesh.apply(resources.node(mesh.b.name, *NOBODY, mesh.b.v4, mesh.b.v6))
    yield
    mesh.apply(resources.node(mesh.b.name, mesh.b.v4, mesh.b.v6))


@pytest.mark.usefixtures("dead_first")
def test_a_node_is_reached_at_its_other_addresses(shop: Shop, family: Family) -> None:
    def reached() -> bool:
        with shop.dial(shop.server, family) as client:
            client.settimeout(IO_SECONDS)
            client.sendall(b"x")
            return client.recv(1) == b"x"

    with shop.server.serve(echo):
        eventually(reached, what="the service answers")
        for _ in range(3):
            assert reached()


def test_a_server_that_is_slow_to_accept(shop: Shop, behind: Behind, family: Family) -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(behind.spot.listen(TARGET_PORT, backlog=0))
        first = stack.enter_context(shop.dial(behind, family))  # it fills the queue, whose length is one
        first.sendall(b"first")
        second = stack.enter_context(shop.dial(behind, family))
        second.sendall(b"second")
        with pytest.raises(TimeoutError):  # neither an answer nor a reset
            second.settimeout(OLD_LIMIT_SECONDS)
            second.recv(1)
        words = set()
        listener.settimeout(IO_SECONDS)
        for _ in range(2):
            server = stack.enter_context(listener.accept()[0])
            server.settimeout(IO_SECONDS)
            words.add(server.recv(10))
            server.sendall(b"late")
        assert words == {b"first", b"second"}
        second.settimeout(IO_SECONDS)
        assert read_exactly(second, 4) == b"late"
