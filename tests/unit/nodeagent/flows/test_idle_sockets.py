"""Idle timeouts over real sockets: the active flow lives, the idle one is reset, and both agents know why."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from unittest import mock

import pytest

from control.wire.discovery import MESH_UID, MeshSettings
from nodeagent.flows import app
from nodeagent.net.sockets import quiet_seconds
from nodeagent.reasons import Reason
from nodeagent.splice.figures import SplicedBytes
from nodeagent.telemetry.metrics import ERRORS
from tests.support.relay import Node
from tests.support.stories import Stage, eventually, story
from tests.unit.nodeagent.flows.test_splicing import play

THIRD = 8 * 1024 * 1024
"""More than all buffers between two applications hold."""
TICK = 0.02
"""What the kernel and the loop may round."""


def all_may_idle(seconds: int) -> MeshSettings:
    """The mesh's own timeout."""
    return MeshSettings(uid=MESH_UID, domain="mesh.internal", idle_timeout=seconds)


class Clock:
    """Plays the kernel's: sockets are as quiet as the test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def sweep(self, *nodes: Node, later: float, sockets: float) -> None:
        """So many seconds later sockets have been quiet for so many seconds, and a whole round is swept."""
        self.now += later
        with mock.patch.object(app, "quiet_seconds", lambda _: sockets):
            for _ in range(6):
                for node in nodes:
                    node.tracker.cut_idle(self.now)

    def pass_by(self, seconds: float, *nodes: Node) -> None:
        """Something was carried just now, and then nothing for so long."""
        self.sweep(*nodes, later=0.0, sockets=0.0)
        self.sweep(*nodes, later=seconds, sockets=seconds)


@pytest.mark.interpreted
@story(both_paths=True)
async def test_an_idle_flow_is_reset_and_both_agents_say_why(mesh: Stage, vip: str) -> None:
    near = vip == mesh.VIP_NEAR
    clock, changed = Clock(), mesh.near_service if near else mesh.far_service
    mesh.update(replace(changed, idle_timeout=60))
    client, server = await mesh.pair(vip)
    await mesh.echo(client, server)
    clock.pass_by(59.0, mesh.a, mesh.b)
    await mesh.echo(client, server)
    clock.pass_by(60.0, mesh.a)
    await mesh.expect_reset(client)
    await mesh.expect_reset(server)
    records = await mesh.records(mesh.a, 2 if near else 1)
    if not near:
        records += await mesh.records(mesh.b)
    assert {record.reason for record in records} == {Reason.IDLE_TIMEOUT}
    assert "nothing was carried for 60 s" in records[0].detail
    assert "shop/near" in records[0].detail or "shop/far" in records[0].detail
    counted = [s for s in mesh.a.metrics.samples() if s.name == ERRORS]
    assert [sample.labels["reason"] for sample in counted] == ["idle-timeout"]


@pytest.mark.interpreted
@story
async def test_the_destinations_agent_may_be_the_first_to_notice(mesh: Stage) -> None:
    clock = Clock()
    mesh.update(all_may_idle(60))
    client, server = await mesh.pair(mesh.VIP_FAR)
    await mesh.echo(client, server)
    clock.pass_by(60.0, mesh.b)
    await mesh.expect_reset(client)
    await mesh.expect_reset(server)
    (here,), (there,) = await mesh.records(mesh.a), await mesh.records(mesh.b)
    assert (here.reason, here.detail) == (Reason.IDLE_TIMEOUT, "by the agent of b")
    assert (there.reason, there.detail) == (Reason.IDLE_TIMEOUT, "nothing was carried for 60 s; the mesh allows 60 s")


@story(both_paths=True)
async def test_by_the_kernels_own_clock(mesh: Stage, vip: str) -> None:
    """One second, really: the flow that carries something lives."""
    mesh.update(all_may_idle(1))
    active, idle = await mesh.pair(vip), await mesh.pair(vip)
    await mesh.echo(*active)
    await mesh.echo(*idle)

    ends = asyncio.Event()

    async def swept() -> None:
        while not ends.is_set():
            for node in (mesh.a, mesh.b):
                node.tracker.cut_idle(mesh.loop.time())
            await mesh.echo(*active)
            await asyncio.sleep(0.05)

    sweeping = asyncio.ensure_future(swept())
    await mesh.expect_reset(idle[0])
    await mesh.expect_reset(idle[1])
    ends.set()
    await sweeping
    await eventually(lambda: len(mesh.a.tracker) == 1)
    mesh.update(all_may_idle(0))
    await mesh.finish(*active)


@pytest.mark.interpreted
@story(both_paths=True)
async def test_a_timeout_that_is_taken_back_cuts_nothing(mesh: Stage, vip: str) -> None:
    clock = Clock()
    mesh.update(all_may_idle(60))
    client, server = await mesh.pair(vip)
    await mesh.echo(client, server)
    mesh.update(replace(mesh.client, idle_timeout=0))
    clock.pass_by(100_000.0, mesh.a, mesh.b)
    await mesh.echo(client, server)


@pytest.mark.interpreted
@story
async def test_what_the_kernel_carries_counts(mesh: Stage) -> None:
    """A spliced flow: its sockets are quiet, its bytes go elsewhere."""
    kernel, clock = play(mesh), Clock()
    mesh.update(replace(mesh.near, idle_timeout=60))
    client, server = await mesh.pair(mesh.VIP_NEAR)
    await mesh.echo(client, server)
    kernel.bytes[101] = SplicedBytes(10, 0, clock.now + 50.0, read=10)
    clock.sweep(mesh.a, later=100.0, sockets=1000.0)
    await mesh.echo(client, server)
    kernel.bytes[101] = SplicedBytes(10, 0, clock.now - 1000.0, read=11)
    clock.sweep(mesh.a, later=100.0, sockets=1000.0)
    await mesh.echo(client, server)
    clock.sweep(mesh.a, later=59.0, sockets=1000.0)
    await mesh.echo(client, server)
    clock.sweep(mesh.a, later=1.0, sockets=1000.0)
    await mesh.expect_reset(client)
    for record in await mesh.records(mesh.a, 2):
        assert record.reason is Reason.IDLE_TIMEOUT


@pytest.mark.interpreted
@story
async def test_a_slow_reader_on_the_other_node_is_not_idle(mesh: Stage) -> None:
    """The windows tell that the other node's application reads on, whatever the sender's socket does."""
    clock = Clock()
    mesh.update(MeshSettings(uid=MESH_UID, domain="mesh.internal", idle_timeout=60))
    client, server = await mesh.pair(mesh.VIP_FAR)
    data = os.urandom(THIRD) * 3
    sending = asyncio.ensure_future(mesh.send(client, data))
    flow = next(iter(mesh.a.tracker.flows))
    await eventually(lambda: flow.source is not None and flow.source.received)
    got = await mesh.read(server, THIRD)
    clock.sweep(mesh.a, later=50.0, sockets=0.0)
    got += await mesh.read(server, THIRD)
    clock.sweep(mesh.a, later=100.0, sockets=1000.0)
    got += await mesh.read(server, THIRD)
    await sending
    await mesh.echo(client, server)
    assert got == data


@story
async def test_quiet_seconds_of_a_socket(mesh: Stage) -> None:
    client, server = await mesh.pair(mesh.VIP_NEAR)
    flow = next(iter(mesh.a.tracker.flows))
    await eventually(lambda: flow.opened)
    transport = flow.source.transport  # type: ignore[union-attr]
    for sender, receiver in ((client, server), (server, client)):
        await eventually(lambda: quiet_seconds(transport) > 0.05)
        began = mesh.loop.time()
        await mesh.send(sender, b"word")
        assert await mesh.read(receiver, 4) == b"word"
        quiet = quiet_seconds(transport)
        assert quiet <= mesh.loop.time() - began + TICK
    transport.abort()
    assert quiet_seconds(mock.Mock(get_extra_info=lambda _: None)) == 0.0
