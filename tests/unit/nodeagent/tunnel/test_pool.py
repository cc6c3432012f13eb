"""Tunnels and who shares them: one for many flows, more when it is full, new ones for new certificates, none for the
wrong peer.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

from nodeagent.reasons import Reason
from tests.support import pki
from tests.support.peer import tls_context
from tests.support.stories import Stage, eventually, story


async def several(mesh: Stage, count: int):
    """Live connections to ``far``."""
    pairs = []
    for _ in range(count):
        pairs.append(await mesh.pair(mesh.VIP_FAR))
        await mesh.echo(*pairs[-1])
    return pairs


@story
async def test_many_flows_share_one_tunnel(mesh: Stage) -> None:
    pairs = await several(mesh, 60)
    assert len(mesh.a.outbound.pool) == len(mesh.b.inbound.tunnels) == 1
    for index, (client, server) in enumerate(pairs):
        await mesh.echo(client, server, b"again %d" % index)
        await mesh.finish(client, server)
    assert await mesh.reasons(mesh.a, 60) == [Reason.OK] * 60
    assert len(mesh.a.outbound.pool) == 1


@story
async def test_flows_that_come_at_once_share_the_tunnel_that_is_being_made(mesh: Stage) -> None:
    clients = [mesh.connect(mesh.VIP_FAR) for _ in range(50)]
    servers = [await mesh.accept() for _ in clients]
    assert len(mesh.a.outbound.pool) == 1
    assert len(servers) == 50


@story
async def test_a_full_tunnel_is_joined_by_a_second(mesh: Stage) -> None:
    pairs = await several(mesh, 101)
    assert len(mesh.a.outbound.pool) == 2
    for client, server in pairs:
        await mesh.echo(client, server)


@story
async def test_more_flows_at_once_than_a_tunnel_takes(mesh: Stage) -> None:
    clients = [mesh.connect(mesh.VIP_FAR) for _ in range(150)]
    servers = [await mesh.accept() for _ in clients]
    assert len(servers) == 150
    assert len(mesh.a.outbound.pool) == 2


@story
async def test_flows_wait_for_a_tunnel_again_if_one_of_several_is_lost(mesh: Stage) -> None:
    """150 wait, two tunnels are being made, one fails: the 50 that are left over are not forgotten."""
    family = socket.AF_INET6 if ":" in mesh.ip else socket.AF_INET
    door = socket.create_server((mesh.ip, 0), family=family)
    mesh.sockets.append(door)
    mesh.update(replace(mesh.far, tunnel_port=door.getsockname()[1]))
    clients = [mesh.connect(mesh.VIP_FAR) for _ in range(150)]
    pool = mesh.a.outbound.pool
    await eventually(lambda: pool._waiting == 150 and len(mesh.a.tunnels) == 2)
    doomed, _ = pool
    doomed.fail(Reason.TUNNEL_LOST, "the test says so")

    async def answer() -> None:
        door.setblocking(False)
        while True:
            accepted, peername = await mesh.loop.sock_accept(door)
            inbound = mesh.b.inbound
            inbound.threshold.arrive(accepted, peername, partial(inbound.tunnel, None))

    answering = asyncio.create_task(answer())
    servers = [await mesh.accept() for _ in clients]
    assert len(servers) == 150
    answering.cancel()
    await asyncio.wait([answering])


@story
async def test_a_tunnel_that_is_lost_resets_its_flows(mesh: Stage) -> None:
    pairs = await several(mesh, 3)
    (tunnel,) = mesh.b.inbound.tunnels
    tunnel.transport.abort()
    for client, server in pairs:
        await mesh.expect_reset(client)
        await mesh.expect_reset(server)
    assert await mesh.reasons(mesh.a, 3) == [Reason.TUNNEL_LOST] * 3
    assert await mesh.reasons(mesh.b, 3) == [Reason.TUNNEL_LOST] * 3
    await several(mesh, 1)


@story
async def test_a_new_svid_means_new_tunnels_and_old_flows_go_on(mesh: Stage) -> None:
    for node, identity in ((mesh.a, mesh.client.identity), (mesh.b, mesh.far.identity)):
        (client, server), *_ = await several(mesh, 1)
        (old,) = [tunnel for tunnel in mesh.a.outbound.pool if tunnel.usable]
        node.give_svid(identity)
        node.refresh()
        await eventually(lambda old=old: not old.usable)
        (other, other_server), *_ = await several(mesh, 1)
        assert len([tunnel for tunnel in mesh.a.outbound.pool if tunnel.usable]) == 1
        await mesh.echo(client, server)
        assert not old.closed
        await mesh.finish(client, server)
        await eventually(lambda old=old: old.closed, "a drained tunnel without flows stays open")
        await mesh.finish(other, other_server)
    assert set(await mesh.reasons(mesh.a, 4)) == {Reason.OK}
    assert set(await mesh.reasons(mesh.b, 4)) == {Reason.OK}


@story
async def test_certificate_rotation_under_traffic_loses_nothing(mesh: Stage) -> None:
    async def serve() -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(answer(await mesh.accept()))

    async def answer(server) -> None:
        data = await mesh.read_to_end(server)
        await mesh.send(server, data[::-1])
        server.close()

    async def ask() -> None:
        for _ in range(25):
            client, data = mesh.connect(mesh.VIP_FAR), os.urandom(20_000)
            await mesh.send(client, data)
            client.shutdown(1)
            assert await mesh.read_to_end(client) == data[::-1]
            client.close()

    async def rotate() -> None:
        while True:
            for node, identity in ((mesh.a, mesh.client.identity), (mesh.b, mesh.far.identity)):
                count = len(mesh.a.log.records)
                node.give_svid(identity)
                node.refresh()
                await mesh.a.log.wait(count + 5)

    serving, rotating = asyncio.create_task(serve()), asyncio.create_task(rotate())
    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(ask())
    for task in (rotating, serving):
        task.cancel()
    await asyncio.wait([rotating, serving])
    assert {record.reason for record in mesh.a.log.records} == {Reason.OK}
    assert len(mesh.a.log.records) == 200


@story
async def test_an_svid_that_is_replaced_during_the_handshake_is_not_used(mesh: Stage) -> None:
    client = mesh.connect(mesh.VIP_FAR)
    await eventually(lambda: len(mesh.a.outbound.pool))
    (old,) = mesh.a.outbound.pool
    mesh.a.give_svid(mesh.client.identity)
    mesh.a.refresh()
    await mesh.echo(client, await mesh.accept())
    assert old.closed
    (new,) = mesh.a.outbound.pool
    assert new.generation == mesh.a.certificates.generation(mesh.client.identity)


@story
async def test_a_workload_that_changes_its_identity_gets_a_new_tunnel(mesh: Stage) -> None:
    await several(mesh, 1)
    changed = replace(mesh.far, identity=mesh.near.identity)
    mesh.b.give_svid(changed.identity)
    mesh.update(changed)
    assert {record.reason for record in await mesh.a.log.wait(1)} == {Reason.WORKLOAD_REMOVED}
    pairs = await several(mesh, 1)
    assert mesh.a.log.records[0].destination_principal == mesh.far.identity
    (flow,) = mesh.b.tracker.flows
    assert flow.record.destination_principal == changed.identity
    assert pairs


@asynccontextmanager
async def impostor(mesh: Stage, context: ssl.SSLContext):
    """Something else at the door of node b."""
    for server in mesh.b._servers:
        server.close()

    server = await mesh.loop.create_server(asyncio.Protocol, mesh.ip, 0, ssl=context)
    mesh.update(replace(mesh.far, tunnel_port=server.sockets[0].getsockname()[1]))
    try:
        yield
    finally:
        server.close()
        await mesh.a.stop()


@story
async def test_a_server_with_another_identity_is_refused(mesh: Stage) -> None:
    leaf = pki.make_svid(mesh.b.authority, mesh.near.identity)
    async with impostor(mesh, tls_context(leaf, mesh.root, server=True)):
        await mesh.expect_reset(mesh.connect(mesh.VIP_FAR))
        (record,) = await mesh.records(mesh.a)
        assert record.reason is Reason.IDENTITY_MISMATCH
        assert mesh.near.identity in record.detail
        assert mesh.far.identity in record.detail


@story
async def test_a_server_of_a_foreign_ca_is_refused(mesh: Stage) -> None:
    leaf = pki.make_svid(pki.make_root(), mesh.far.identity)
    async with impostor(mesh, tls_context(leaf, mesh.root, server=True)):
        await mesh.expect_reset(mesh.connect(mesh.VIP_FAR))
        assert await mesh.reasons(mesh.a) == [Reason.TLS_FAILURE]


@story
async def test_nobody_at_the_door_is_told_as_such(mesh: Stage) -> None:
    for server in mesh.b._servers:
        server.close()
    await mesh.expect_reset(mesh.connect(mesh.VIP_FAR))
    (record,) = await mesh.records(mesh.a)
    assert record.reason is Reason.CONNECT_REFUSED
    assert str(mesh.b.tunnel_port) in record.detail


@story
async def test_a_tunnel_that_carries_nothing_is_closed_in_time(mesh: Stage) -> None:
    (pair,) = await several(mesh, 1)
    mesh.a.outbound.pool.tick(mesh.loop.time() + 1)
    await mesh.finish(*pair)
    await mesh.a.log.wait(1)
    assert len(mesh.a.outbound.pool) == 1
    mesh.a.outbound.pool.tick(mesh.loop.time() + 301)
    await eventually(lambda: not len(mesh.a.outbound.pool) and not mesh.b.inbound.tunnels)
