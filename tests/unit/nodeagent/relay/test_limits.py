"""Shares of peers and workloads: who exceeds is refused and named, and its neighbours go on."""

from __future__ import annotations

import contextlib
import socket

import pytest

from nodeagent.http2.limits import MAX_EMPTY_RESETS
from nodeagent.limits.owner import network_of
from nodeagent.limits.settings import Limits
from nodeagent.reasons import Reason
from tests.support.relay import Node
from tests.support.stories import Stage, eventually, story
from tests.unit.nodeagent.relay.test_inbound import CLIENT, REFUSALS, door, peer_of, target


def limited(node: Node, **limits: int) -> None:
    node.tracker.excess.limits = Limits(**limits)


async def neighbour(mesh: Stage) -> None:
    client, server = await mesh.pair(mesh.VIP_FAR)
    await mesh.echo(client, server)


@story
async def test_streams_that_are_answered_at_once_and_reset_at_once_are_bounded(mesh: Stage) -> None:
    """Rapid reset where the application accepts each connection: 512 in a burst, then the peer is to calm down."""
    mesh.listener.listen(4096)
    async with peer_of(mesh) as peer:
        await peer.connect(door(mesh))
        opened = 0
        with contextlib.suppress(*REFUSALS):
            while peer.connection.can_open:
                answer = await peer.request(target(mesh))
                opened += answer.status == "200"
                answer.stream.reset()
        assert MAX_EMPTY_RESETS <= opened <= MAX_EMPTY_RESETS + 2
        assert peer.farewells[-1] == (11, "the peer opens streams, sends nothing and resets them")
    await eventually(lambda: any(r.reason is Reason.PROTOCOL_ERROR for r in mesh.b.log.records))
    (ended,) = [r for r in mesh.b.log.records if r.reason is Reason.PROTOCOL_ERROR]
    assert ended.source_principal == CLIENT and "resets them" in ended.detail
    assert mesh.b.tracker.excess.counts == {("tunnel_protocol", CLIENT): 1}
    async with peer_of(mesh) as again:  # a new tunnel of the same identity begins where the old one ended
        await again.connect(door(mesh))
        with contextlib.suppress(*REFUSALS):
            while again.connection.can_open:
                (await again.request(target(mesh))).stream.reset()
            await again.until(lambda: again.farewells)
        assert again.farewells[-1][0] == 11
    mesh.b.inbound.tick(mesh.loop.time() + 1)
    async with peer_of(mesh) as calm:
        await calm.connect(door(mesh))
        (await calm.request(target(mesh))).stream.reset()
        assert (await calm.request(target(mesh))).status == "200"


@story
async def test_tunnels_of_one_peer_have_a_share_and_one_without_streams_gives_way(mesh: Stage) -> None:
    limited(mesh.b, tunnels_per_peer=2)
    mesh.b.inbound.peers.share = 2
    async with peer_of(mesh) as busy, peer_of(mesh) as idle, peer_of(mesh) as late, peer_of(mesh) as refused:
        await busy.connect(door(mesh))
        assert (await busy.request(target(mesh))).status == "200"
        await idle.connect(door(mesh))
        await late.connect(door(mesh))
        assert (await late.request(target(mesh))).status == "200"
        with pytest.raises(REFUSALS):
            await idle.until(lambda: False)
        assert (await busy.request(target(mesh))).status == "200"
        with pytest.raises(REFUSALS):
            await refused.connect(door(mesh))
            await refused.until(lambda: False)
        owner = network_of(mesh.ip)
        assert mesh.b.tracker.excess.counts == {("tunnels_per_peer", owner): 2}
        assert all("tunnels_per_peer" in r.detail for r in mesh.b.log.records if r.reason is Reason.OVERLOADED)


@story
async def test_silent_connections_to_the_tunnel_port_cost_no_tls_and_are_in_nobodys_way(mesh: Stage) -> None:
    mesh.b.inbound.threshold._all.share = 50
    silent = []
    for _ in range(200):
        client = socket.create_connection(tuple(door(mesh)))
        client.setblocking(False)
        silent.append(client)
    mesh.sockets += silent
    await neighbour(mesh)
    assert len(mesh.b.inbound.threshold) <= 50
    assert not any(tunnel.peer is None for tunnel in mesh.b.inbound.tunnels)
    assert mesh.b.tracker.excess.counts["unproved_per_peer", network_of(mesh.ip)] >= 150


@story(both_paths=True)
async def test_a_workload_that_has_its_share_of_connections_is_refused_and_named(mesh: Stage, vip: str) -> None:
    limited(mesh.a, flows_per_workload=3)
    pairs = [await mesh.pair(vip) for _ in range(3)]
    await mesh.expect_reset(mesh.connect(vip))
    (record,) = [r for r in mesh.a.log.records if r.reason is Reason.OVERLOADED]
    assert record.source is not None and record.source.uid in record.detail
    assert "limits.flows_per_workload: 3" in record.detail
    await mesh.finish(*pairs[0])
    await eventually(lambda: len(mesh.a.tracker) == 2)
    await mesh.echo(*await mesh.pair(vip))


@story
async def test_an_identity_that_has_its_share_of_connections_is_refused_by_the_other_node(mesh: Stage) -> None:
    limited(mesh.b, flows_per_workload=2)
    async with peer_of(mesh) as peer:
        await peer.connect(door(mesh))
        assert [(await peer.request(target(mesh))).status for _ in range(3)] == ["200", "200", "503"]
        assert mesh.b.tracker.excess.counts == {("flows_per_workload", CLIENT): 1}
