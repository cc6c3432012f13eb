"""Servers and nodes that answer late, or at another address than the first."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace

from control.wire.address import SocketAddress
from nodeagent.reasons import Reason
from tests.support.stories import Stage, eventually, story


async def fill(mesh: Stage) -> list[socket.socket]:
    """Nobody else gets into the server's queue until somebody is accepted."""
    mesh.listener.listen(0)
    family, address = mesh.listener.family, mesh.listener.getsockname()
    waiting = []
    for _ in range(2):
        waiting.append(socket.socket(family))
        waiting[-1].setblocking(False)
        waiting[-1].connect_ex(address)
    await asyncio.sleep(0)
    mesh.sockets += waiting
    return waiting


@story(both_paths=True)
async def test_a_server_whose_queue_is_full_is_waited_for(mesh: Stage, vip: str) -> None:
    await fill(mesh)
    client = mesh.connect(vip)
    await mesh.send(client, b"hello")
    (await mesh.accept()).close()  # there is room now; the kernel asks again after a second
    while True:
        server = await mesh.accept()
        if (word := await mesh.loop.sock_recv(server, 5)) == b"hello":
            break
        assert not word
    await mesh.send(server, b"late")
    assert await mesh.read(client, 4) == b"late"


@story(both_paths=True)
async def test_a_client_that_goes_away_ends_the_wait(mesh: Stage, vip: str) -> None:
    await fill(mesh)
    client = mesh.connect(vip)
    await mesh.send(client, b"hello")
    node = mesh.a if vip == mesh.VIP_NEAR else mesh.b
    await eventually(lambda: any(not flow.opened for flow in node.tracker.flows), "it waits")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    assert set(await mesh.reasons(mesh.a, 2 if vip == mesh.VIP_NEAR else 1)) == {Reason.SOURCE_RESET}
    await eventually(lambda: not len(node.tracker), "the wait goes on")


@story
async def test_a_node_is_reached_at_its_next_address(mesh: Stage) -> None:
    dead = "127.0.0.77" if ":" not in mesh.ip else "fd6d:6573:ffff::dead"
    mesh.update(replace(mesh.far, tunnel_addresses=(dead, mesh.ip)))
    for _ in range(2):
        client, server = await mesh.pair(mesh.VIP_FAR)
        await mesh.echo(client, server)
        await mesh.finish(client, server)
    first, second = await mesh.records(mesh.a, 2)
    assert first.reason is second.reason is Reason.OK
    assert first.tunnel_address is not None and first.tunnel_address.ip == mesh.ip
    remote = mesh.a.outbound.reach.remote
    dead_one, good_one = SocketAddress(dead, first.tunnel_address.port), first.tunnel_address
    assert remote.addresses.ordered((dead_one, good_one), remote.now) == [good_one, dead_one]
