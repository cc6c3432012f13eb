"""The legs of flows that leave the node, with a kernel that the test plays: what is asked of it, and when."""

from __future__ import annotations

import socket
from dataclasses import replace

from control.wire.address import SocketAddress
from nodeagent.flows.splicing import LEG_CHUNKS
from nodeagent.reasons import Reason
from nodeagent.relay.status import flow_rows
from tests.support.stories import Stage, eventually, reset, story
from tests.unit.nodeagent.flows.test_splicing import FakeKernel, play, splicing


async def warm(mesh: Stage, client: socket.socket, server: socket.socket, more: int = 1) -> None:
    """Exchange until the kernel is asked, and so many times more."""
    for _ in range(LEG_CHUNKS + more):
        await mesh.echo(client, server)


@story
async def test_a_short_connection_costs_the_kernel_nothing(mesh: Stage) -> None:
    kernels = [play(mesh), play(mesh, mesh.b)]
    client, server = await mesh.pair(mesh.VIP_FAR)
    await warm(mesh, client, server, 0)
    await mesh.finish(client, server)
    assert [kernel.calls for kernel in kernels] == [[], []]
    assert [kernel.forgotten for kernel in kernels] == [[], []]


@story
async def test_a_long_one_is_prepared_and_offered_at_both_ends(mesh: Stage) -> None:
    here, there = play(mesh), play(mesh, mesh.b)
    client, server = await mesh.pair(mesh.VIP_FAR)
    await warm(mesh, client, server)
    assert here.calls == there.calls == ["prepare", "offer"]
    source = SocketAddress(*client.getsockname()[:2])
    assert here.prepared == [(1, source, SocketAddress(mesh.ip, mesh.a.outbound_port))]
    dialled, target = SocketAddress(*server.getpeername()[:2]), SocketAddress(*server.getsockname()[:2])
    assert there.prepared == [(0, dialled, target)], "the agent is the client"
    assert (len(splicing(mesh)), splicing(mesh).legs) == (0, 1)
    ((row,), _) = flow_rows(mesh.a.tracker)
    assert row.get("relayed_because") is None, "it is none of the spliced flows"


@story
async def test_it_is_asked_again_until_nothing_is_on_its_way(mesh: Stage) -> None:
    kernel = play(mesh)
    kernel.not_yet = 2
    client, server = await mesh.pair(mesh.VIP_FAR)
    await warm(mesh, client, server, 3)
    assert kernel.calls == ["prepare", "prepare", "prepare", "offer"]
    await mesh.finish(client, server)
    assert kernel.forgotten == [103]


@story
async def test_nothing_is_asked_once_the_kernel_has_it(mesh: Stage) -> None:
    kernels = [play(mesh), play(mesh, mesh.b)]
    for kernel in kernels:
        kernel.waiting = 2
    client, server = await mesh.pair(mesh.VIP_FAR)
    await warm(mesh, client, server, 6)
    assert [kernel.calls.count("offer") for kernel in kernels] == [3, 3]


@story
async def test_all_bytes_are_the_agents_own_to_count(mesh: Stage) -> None:
    kernel = play(mesh)
    client, server = await mesh.pair(mesh.VIP_FAR)
    kernel.grows = 1000
    await warm(mesh, client, server)
    await mesh.finish(client, server)
    (record,) = await mesh.records(mesh.a, 1)
    carried = (LEG_CHUNKS + 1) * len(b"ping")
    assert (record.bytes_sent, record.bytes_received, record.reason) == (carried, carried, Reason.OK)


@story
async def test_each_is_forgotten_once_however_the_flow_ends(mesh: Stage) -> None:
    kernels = [play(mesh), play(mesh, mesh.b)]
    client, server = await mesh.pair(mesh.VIP_FAR)
    await warm(mesh, client, server)
    await mesh.finish(client, server)
    await _forgot(kernels, [101])
    client, server = await mesh.pair(mesh.VIP_FAR)
    await warm(mesh, client, server)
    reset(client)
    await mesh.expect_reset(server)
    await _forgot(kernels, [101, 102])
    client, server = await mesh.pair(mesh.VIP_FAR)
    await warm(mesh, client, server)
    mesh.update(gone=(("workload", mesh.far.uid),))
    await mesh.expect_reset(client)
    await _forgot(kernels, [101, 102, 103])
    assert splicing(mesh).legs == 0


async def _forgot(kernels: list[FakeKernel], numbers: list[int]) -> None:
    await eventually(lambda: all(kernel.forgotten == numbers for kernel in kernels))


@story
async def test_what_the_kernel_refuses_stops_nothing(mesh: Stage) -> None:
    kernels = [play(mesh), play(mesh, mesh.b)]
    for kernel in kernels:
        kernel.refuses_flows = True
    client, server = await mesh.pair(mesh.VIP_FAR)
    await warm(mesh, client, server, 3)
    await mesh.finish(client, server)
    assert [kernel.calls for kernel in kernels] == [["prepare"], ["prepare"]], "and it is not asked again"
    assert [kernel.forgotten for kernel in kernels] == [[], []]


@story
async def test_a_switch_takes_live_ones_back_and_lets_them_in_again(mesh: Stage) -> None:
    kernel = play(mesh)
    kernel.waiting = 0  # the kernel has it at the first offer
    client, server = await mesh.pair(mesh.VIP_FAR)
    await warm(mesh, client, server)
    kernel.calls.clear()
    mesh.update(replace(mesh.client, splice=False))
    await mesh.echo(client, server)
    assert kernel.calls == ["withdraw"]
    other = await mesh.pair(mesh.VIP_FAR)
    await warm(mesh, *other)
    assert kernel.calls == ["withdraw"], "a new one is not even prepared"
    kernel.waiting = 2
    mesh.update(mesh.client)
    await mesh.echo(client, server)
    await mesh.echo(client, server)
    assert kernel.calls == ["withdraw", "offer", "offer", "offer"], "until the kernel has it again"


@story
async def test_a_stuck_one_is_reset_and_only_its_own_workload_is_kept_out(mesh: Stage) -> None:
    kernel = play(mesh)
    told: list[dict[str, str]] = []
    splicing(mesh).on_stuck = told.append
    client, server = await mesh.pair(mesh.VIP_FAR)
    await warm(mesh, client, server)
    kernel.broken = {101: "out splice"}
    await mesh.expect_reset(client)
    await mesh.expect_reset(server)
    assert told == [{mesh.client.uid: "out splice"}]
