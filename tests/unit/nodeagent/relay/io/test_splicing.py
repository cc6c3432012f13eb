"""Same-node flows and the kernel splice, with a kernel that the test plays: what is asked of it, when, and what the
relay makes of its answers.
"""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import replace

from control.wire.address import SocketAddress
from nodeagent.reasons import Reason
from nodeagent.relay.io.splicing import SPLICE_LABEL, Splicing
from nodeagent.splice.figures import SplicedBytes
from nodeagent.telemetry.metrics import RECEIVED, SENT
from tests.support.stories import Stage, eventually, reset, story

BULK = 1_000_000


class FakeKernel:
    """Keeps what it is asked. ``waiting`` offers are answered with: ask again."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.prepared: list[tuple[int, SocketAddress, SocketAddress]] = []
        self.forgotten: list[int] = []
        self.bytes: dict[int, SplicedBytes] = {}
        self.broken: dict[int, str] = {}
        self.waiting = 1_000_000
        self.refuses_flows = False
        self.refuses_dials = False
        self._number = 100

    def prepare(self, cookie: int, client: SocketAddress, listener: SocketAddress) -> int | None:
        self.calls.append("prepare")
        self.prepared.append((cookie, client, listener))
        if self.refuses_flows:
            return None
        self._number += 1
        self.bytes[self._number] = SplicedBytes(0, 0, 0.0)
        return self._number

    def dialling(self, flow: int, descriptor: int) -> bool:
        assert flow in self.bytes
        with socket.socket(fileno=os.dup(descriptor)) as connecting:
            self.calls.append("dialling connected" if _connected(connecting) else "dialling")
        return not self.refuses_dials

    def offer(self, flow: int) -> bool:
        assert flow in self.bytes
        self.calls.append("offer")
        self.waiting -= 1
        return self.waiting >= 0

    def forget(self, flow: int) -> None:
        self.forgotten.append(flow)
        self.bytes.pop(flow, None)

    def counters(self, flow: int) -> SplicedBytes | None:
        return self.bytes.get(flow)

    def stuck(self, mine: set[int]) -> list[tuple[int, str]]:
        return [(flow, self.broken.pop(flow)) for flow in tuple(self.broken) if flow in mine]


def _connected(end: socket.socket) -> bool:
    try:
        end.getpeername()
    except OSError:
        return False
    return True


def play(mesh: Stage) -> FakeKernel:
    """Node a gets a kernel that can splice."""
    kernel = FakeKernel()
    mesh.a.services.splicing = Splicing(kernel, asyncio.get_running_loop())
    return kernel


def splicing(mesh: Stage) -> Splicing:
    assert mesh.a.services.splicing is not None
    return mesh.a.services.splicing


@story
async def test_a_flow_is_prepared_then_dialled_then_offered(mesh: Stage) -> None:
    kernel = play(mesh)
    client, server = await mesh.pair(mesh.VIP_NEAR)
    await eventually(lambda: len(kernel.calls) == 3, "offered before anything is sent: a server may speak first")
    assert kernel.calls == ["prepare", "dialling", "offer"]
    await mesh.echo(client, server)
    source = SocketAddress(*client.getsockname()[:2])
    assert kernel.prepared == [(1, source, SocketAddress(mesh.ip, mesh.a.outbound_port))]
    assert len(splicing(mesh)) == 1


@story
async def test_it_is_offered_after_each_chunk_until_the_kernel_has_it(mesh: Stage) -> None:
    kernel = play(mesh)
    client, server = await mesh.pair(mesh.VIP_NEAR)
    await mesh.echo(client, server)
    kernel.calls.clear()
    await mesh.echo(client, server)
    assert kernel.calls == ["offer"] * 2, "once for each chunk"
    kernel.waiting = 2
    for _ in range(5):
        await mesh.echo(client, server)
    assert kernel.calls == ["offer"] * 5, "the third was answered: no need to ask again"


@story
async def test_a_flow_to_another_node_is_none_of_the_splice(mesh: Stage) -> None:
    kernel = play(mesh)
    client, server = await mesh.pair(mesh.VIP_FAR)
    await mesh.echo(client, server)
    assert kernel.calls == []


@story
async def test_spliced_bytes_are_in_records_and_metrics(mesh: Stage) -> None:
    kernel = play(mesh)
    client, server = await mesh.pair(mesh.VIP_NEAR)
    await mesh.echo(client, server, b"four")
    kernel.bytes[101] = SplicedBytes(1000, 2000, 1.0)
    mesh.a.tracker.report_live()
    assert _counted(mesh) == {RECEIVED: 2 * 1004, SENT: 2 * 2004}, "while it is open"
    kernel.bytes[101] = SplicedBytes(5000, 6000, 2.0)
    await mesh.finish(client, server)
    for record in await mesh.records(mesh.a, 2):
        assert (record.reason, record.bytes_sent, record.bytes_received) == (Reason.OK, 5004, 6004)
    assert _counted(mesh) == {RECEIVED: 2 * 5004, SENT: 2 * 6004}
    assert kernel.forgotten == [101]


def _counted(mesh: Stage) -> dict[str, float]:
    totals = {RECEIVED: 0.0, SENT: 0.0}
    for sample in mesh.a.metrics.samples():
        if sample.name in totals:
            totals[sample.name] += sample.value
    return totals


@story
async def test_it_is_forgotten_once_when_the_client_resets(mesh: Stage) -> None:
    kernel = play(mesh)
    client, server = await mesh.pair(mesh.VIP_NEAR)
    await mesh.echo(client, server)
    reset(client)
    await mesh.expect_reset(server)
    assert await mesh.reasons(mesh.a, 2) == [Reason.SOURCE_RESET] * 2
    assert kernel.forgotten == [101]
    assert len(splicing(mesh)) == 0


@story
async def test_it_is_forgotten_once_when_the_server_resets(mesh: Stage) -> None:
    kernel = play(mesh)
    client, server = await mesh.pair(mesh.VIP_NEAR)
    await mesh.echo(client, server)
    reset(server)
    await mesh.expect_reset(client)
    assert await mesh.reasons(mesh.a, 2) == [Reason.DESTINATION_RESET] * 2
    assert kernel.forgotten == [101]


@story
async def test_it_is_forgotten_once_when_the_mesh_cuts_it(mesh: Stage) -> None:
    kernel = play(mesh)
    client, server = await mesh.pair(mesh.VIP_NEAR)
    await mesh.echo(client, server)
    mesh.update(gone=(("workload", mesh.near.uid),))
    await mesh.expect_reset(client)
    await mesh.expect_reset(server)
    assert await mesh.reasons(mesh.a, 2) == [Reason.WORKLOAD_REMOVED] * 2
    assert kernel.forgotten == [101]


@story
async def test_it_is_forgotten_once_when_the_worker_stops(mesh: Stage) -> None:
    kernel = play(mesh)
    client, server = await mesh.pair(mesh.VIP_NEAR)
    await mesh.echo(client, server)
    mesh.a.tracker.shut_down()
    await mesh.expect_reset(client)
    assert kernel.forgotten == [101]


@story
async def test_it_is_forgotten_once_when_nobody_listens(mesh: Stage) -> None:
    kernel = play(mesh)
    mesh.stop_listening()
    await mesh.expect_reset(mesh.connect(mesh.VIP_NEAR))
    assert await mesh.reasons(mesh.a, 2) == [Reason.CONNECT_REFUSED] * 2
    assert kernel.calls == ["prepare", "dialling"]
    assert kernel.forgotten == [101]


@story
async def test_the_label_on_the_destination_keeps_a_flow_out(mesh: Stage) -> None:
    kernel = play(mesh)
    mesh.update(replace(mesh.near, labels={SPLICE_LABEL: "off"}))
    await mesh.echo(*await mesh.pair(mesh.VIP_NEAR))
    assert kernel.calls == []


@story
async def test_the_label_on_the_source_keeps_a_flow_out(mesh: Stage) -> None:
    kernel = play(mesh)
    mesh.update(replace(mesh.client, labels={SPLICE_LABEL: "off"}))
    await mesh.echo(*await mesh.pair(mesh.VIP_NEAR))
    assert kernel.calls == []


@story
async def test_another_value_of_the_label_does_not(mesh: Stage) -> None:
    kernel = play(mesh)
    mesh.update(replace(mesh.near, labels={SPLICE_LABEL: "on"}))
    await mesh.echo(*await mesh.pair(mesh.VIP_NEAR))
    assert kernel.calls[0] == "prepare"


@story
async def test_a_stuck_flow_is_reset_and_its_workloads_are_relayed_from_then_on(mesh: Stage) -> None:
    kernel = play(mesh)
    stuck, untouched = await mesh.pair(mesh.VIP_NEAR), await mesh.pair(mesh.VIP_NEAR)
    await mesh.echo(*stuck)
    await mesh.echo(*untouched)
    kernel.broken = {101: "out splice", 999: "of another worker"}
    for end in stuck:
        await mesh.expect_reset(end)
    for record in await mesh.records(mesh.a, 2):
        assert (record.reason, record.detail) == (Reason.SPLICE_STUCK, "out splice")
    assert kernel.forgotten == [101]
    assert kernel.broken == {999: "of another worker"}
    assert splicing(mesh).excluded == {mesh.client.uid: "out splice", mesh.near.uid: "out splice"}
    await mesh.echo(*untouched)
    asked = len(kernel.prepared)
    await mesh.echo(*await mesh.pair(mesh.VIP_NEAR))
    assert len(kernel.prepared) == asked


@story
async def test_nobody_looks_for_stuck_flows_where_there_are_none(mesh: Stage) -> None:
    kernel = play(mesh)
    client, server = await mesh.pair(mesh.VIP_NEAR)
    await mesh.finish(client, server)
    await eventually(lambda: splicing(mesh)._timer is None)
    stuck = await mesh.pair(mesh.VIP_NEAR)
    await mesh.echo(*stuck)
    kernel.broken = {102: "later"}
    await mesh.expect_reset(stuck[0])


@story
async def test_a_flow_that_the_kernel_refuses_is_relayed(mesh: Stage) -> None:
    kernel = play(mesh)
    kernel.refuses_flows = True
    await _carries(mesh)
    assert kernel.calls == ["prepare"]
    assert kernel.forgotten == []


@story
async def test_a_dial_that_the_kernel_refuses_is_relayed(mesh: Stage) -> None:
    kernel = play(mesh)
    kernel.refuses_dials = True
    await _carries(mesh)
    assert kernel.calls == ["prepare", "dialling"]
    assert kernel.forgotten == [101]


async def _carries(mesh: Stage) -> None:
    """A flow carries bytes both ways and ends in order."""
    data = os.urandom(BULK)
    client, server = await mesh.pair(mesh.VIP_NEAR)
    for sender, receiver in ((client, server), (server, client)):
        sending = asyncio.ensure_future(mesh.send(sender, data))
        assert await mesh.read(receiver, BULK) == data
        await sending
    await mesh.finish(client, server)
    for record in await mesh.records(mesh.a, 2):
        assert (record.reason, record.bytes_sent, record.bytes_received) == (Reason.OK, BULK, BULK)
