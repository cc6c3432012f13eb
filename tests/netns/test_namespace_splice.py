"""Same-node flows between network namespaces in the kernel's hands, as those within one are."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.netns.resources import from_principal, policy
from tests.netns.servers import read_all, read_exactly, reset
from tests.netns.shop import PORT, TARGET_PORT, Family, Shop
from tests.netns.spliced import Pair, assert_reset, transfer
from tests.netns.spot import IO_SECONDS, Spot
from tests.netns.test_namespace_ends import move, move_home
from tests.netns.town import VIP, Town, wait_served
from tests.netns.town import town as make_town

BULK = 8_000_000

pytestmark = pytest.mark.splice


@pytest.fixture(scope="module")
def town(shop: Shop) -> Iterator[Town]:
    with make_town(shop) as made:
        yield made


@dataclass(frozen=True)
class Way:
    """Who talks to whom."""

    source: str
    target: str

    def pair(self, town: Town, family: Family) -> tuple[Spot, Spot, str]:
        """The spots of both, and the service's address."""
        source = town.walker.spot if self.source == "pod" else town.shop.client
        if self.target == "pod":
            return source, town.near.spot, family.form(*VIP["near"])
        return source, town.shop.local.spot, town.shop.local.address(family)


WAYS = [Way("pod", "pod"), Way("pod", "host"), Way("host", "pod")]


@pytest.fixture(params=WAYS, ids=lambda way: f"{way.source}-{way.target}")
def way(request: pytest.FixtureRequest) -> Way:
    assert isinstance(request.param, Way)
    return request.param


@contextmanager
def spliced(shop: Shop, source: Spot, target: Spot, address: str) -> Iterator[Pair]:
    """A connection of which both directions are spliced."""
    with (
        target.listen(TARGET_PORT) as listener,
        source.connect(address, PORT) as client,
        listener.accept()[0] as server,
    ):
        for end in (client, server):
            end.settimeout(IO_SECONDS)
        flow = Pair(shop, client, server)
        flow.splice()
        yield flow


def test_bytes_go_the_short_way_and_arrive_intact(town: Town, way: Way, family: Family) -> None:
    data = os.urandom(1_000_000) * (BULK // 1_000_000)
    with spliced(town.shop, *way.pair(town, family)) as flow:
        flow.bulk(data)
        flow.splice()
        (told,) = [row for row in town.mesh.a.nodeagent("flows", "-o", "json")["flows"] if flow.port in str(row)]
        assert told["relayed_because"] == "", told


def test_ends_come_after_the_bytes(town: Town, way: Way, family: Family) -> None:
    with spliced(town.shop, *way.pair(town, family)) as flow:
        flow.client.sendall(b"x" * 300_000)
        flow.client.shutdown(socket.SHUT_WR)
        assert read_all(flow.server) == b"x" * 300_000
        assert transfer(flow.server, flow.client, b"y" * 1_000_000) == b"y" * 1_000_000
        flow.server.shutdown(socket.SHUT_WR)
        assert read_all(flow.client) == b""


def test_a_reset_goes_through(town: Town, way: Way, family: Family) -> None:
    with spliced(town.shop, *way.pair(town, family)) as flow:
        reset(flow.client)
        assert_reset(flow.server)


def test_a_policy_ends_it_at_once(town: Town, way: Way, family: Family) -> None:
    target = "near" if way.target == "pod" else "local"
    nobody = policy("nobody", "ALLOW", app=target, rules=[from_principal("remote")])
    with spliced(town.shop, *way.pair(town, family)) as flow, town.mesh.applied(nobody):
        for end in (flow.client, flow.server):
            assert_reset(end)


def test_bytes_that_are_queued_are_read_after_the_sender_has_gone(town: Town, family: Family) -> None:
    """The sender's namespace too: its workload has left it by the time that they are read."""
    source, target, address = Way("pod", "pod").pair(town, family)
    with spliced(town.shop, source, target, address) as flow:
        flow.client.sendall(b"z" * 500_000)
        flow.client.close()
        assert read_exactly(flow.server, 500_000) == b"z" * 500_000
        assert flow.server.recv(1) == b""


def test_when_its_namespace_is_let_go_the_flow_is_reset(town: Town, family: Family) -> None:
    """What a process took along would go on under an identity that it has lost."""
    walker = town.walker
    walker.outside.stay()
    with spliced(town.shop, *Way("pod", "pod").pair(town, family)) as flow:
        move(walker.spot, walker.outside.cgroup)
        for end in (flow.client, flow.server):
            assert_reset(end)
    move_home(walker.spot)
    wait_served(walker)
