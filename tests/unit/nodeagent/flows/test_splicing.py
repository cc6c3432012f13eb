"""Same-node flows and the kernel splice, with a kernel that the test plays: what is asked of it, when, and what the
relay makes of its answers.
"""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import replace

from control.wire.address import SocketAddress
from nodeagent.flows.splicing import HERE, Splicing
from nodeagent.reasons import Reason
from nodeagent.relay.status import flow_rows
from nodeagent.splice.figures import SplicedBytes
from nodeagent.telemetry.metrics import RECEIVED, SENT
from tests.support.relay import Node
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
        self.failures: dict[str, int] = {}
        self.not_read: dict[int, tuple[int, int]] = {}
        self.withdrawn: list[int] = []
        self.grows = 0
        """Bytes that are redirected between two looks at a flow's counts, until it is withdrawn or forgotten."""
        self.waiting = 1_000_000
        self.refuses_flows = False
        self.refuses_dials = False
        self.not_yet = 0
        """Legs that are answered with: ask again."""
        self._number = 100

    def prepare(
        self, cookie: int, client: SocketAddress, listener: SocketAddress, places: tuple[int, int]
    ) -> int | None:
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

    def prepare_leg(
        self, cookie: int, descriptor: int, ends: tuple[SocketAddress, SocketAddress], place: int
    ) -> tuple[int, bool] | None:
        assert place == HERE and descriptor >= 0
        number = self.prepare(cookie, *ends, (place, place))
        if number is not None and self.not_yet:
            self.not_yet -= 1
            return number, False
        return None if number is None else (number, True)

    def offer(self, flow: int) -> bool:
        assert flow in self.bytes
        self.calls.append("offer")
        self.waiting -= 1
        return self.waiting >= 0

    def withdraw(self, flow: int) -> None:
        assert flow in self.bytes
        self.calls.append("withdraw")
        self.withdrawn.append(flow)

    def relayed_because(self, flow: int) -> str:
        return "the kernel says so"

    def forget(self, flow: int) -> None:
        self.forgotten.append(flow)
        self.bytes.pop(flow, None)

    def unread(self, flow: int) -> tuple[int, int]:
        return self.not_read.get(flow, (0, 0))

    def counters(self, flow: int) -> SplicedBytes | None:
        found = self.bytes.get(flow)
        if found is not None and self.grows and flow not in self.withdrawn:
            found = self.bytes[flow] = found._replace(sent=found.sent + self.grows)
        return found

    def stuck(self, mine: set[int]) -> list[tuple[int, str]]:
        return [(flow, self.broken.pop(flow)) for flow in tuple(self.broken) if flow in mine]


def _connected(end: socket.socket) -> bool:
    try:
        end.getpeername()
    except OSError:
        return False
    return True


def play(mesh: Stage, node: Node | None = None) -> FakeKernel:
    """Node a, or another, gets a kernel that can splice."""
    kernel, node = FakeKernel(), node or mesh.a
    splicing = Splicing(kernel, asyncio.get_running_loop(), node.tracker.settings)
    node.tracker.when_switched = splicing.reconsider
    node.services.splicing = splicing
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


def _turned_off(mesh: Stage) -> dict[str, object]:
    return {
        "service": replace(mesh.near_service, splice=False),
        "destination": replace(mesh.near, splice=False),
        "source": replace(mesh.client, splice=False),
    }


WHO = {"service": "service shop/near", "destination": "workload shop/near", "source": "workload shop/client"}


@story
async def test_a_switch_that_is_off_keeps_new_flows_out(mesh: Stage) -> None:
    kernel = play(mesh)
    for who, changed in _turned_off(mesh).items():
        mesh.update(changed)
        client, server = await mesh.pair(mesh.VIP_NEAR)
        await mesh.echo(client, server)
        assert kernel.calls == [], who
        ((row,), _) = flow_rows(mesh.a.tracker)
        assert row["relayed_because"] == f"switched off by {WHO[who]}"
        mesh.update(mesh.near_service, mesh.near, mesh.client)
        await mesh.finish(client, server)
        await eventually(lambda: not len(mesh.a.tracker))
    await mesh.echo(*await mesh.pair(mesh.VIP_NEAR))
    assert kernel.calls[0] == "prepare"


@story
async def test_a_live_flow_goes_back_to_relay_and_may_be_spliced_again(mesh: Stage) -> None:
    kernel = play(mesh)
    client, server = await mesh.pair(mesh.VIP_NEAR)
    await mesh.echo(client, server)
    for who, changed in _turned_off(mesh).items():
        kernel.waiting = 1  # the kernel has it after this offer
        await mesh.echo(client, server)
        kernel.calls.clear()
        mesh.update(changed)
        assert kernel.calls == ["withdraw"]
        mesh.update(replace(mesh.client, labels={"other": "change"}) if who != "source" else mesh.near)
        await mesh.echo(client, server)
        assert kernel.calls == ["withdraw"], "it is neither withdrawn twice nor offered"
        ((row,), _) = flow_rows(mesh.a.tracker)
        assert row["relayed_because"] == f"switched off by {WHO[who]}"
        kernel.waiting = 1_000_000
        mesh.update(mesh.near_service, mesh.near, mesh.client)
        assert kernel.calls == ["withdraw", "offer"]
        ((row,), _) = flow_rows(mesh.a.tracker)
        assert row["relayed_because"] == "the kernel says so"
    await mesh.finish(client, server)


@story
async def test_a_workload_and_a_service_of_others_change_nothing(mesh: Stage) -> None:
    kernel = play(mesh)
    client, server = await mesh.pair(mesh.VIP_NEAR)
    await mesh.echo(client, server)
    kernel.calls.clear()
    mesh.update(replace(mesh.far, splice=False), replace(mesh.far_service, splice=False))
    assert kernel.calls == []


@story
async def test_an_early_chunk_is_followed_by_an_offer(mesh: Stage) -> None:
    """The client sends before the agent has dialled, and nothing else; then its server reads."""
    kernel = play(mesh)
    client = mesh.connect(mesh.VIP_NEAR)
    await mesh.send(client, b"early")
    await eventually(lambda: len(mesh.a.tracker) and next(iter(mesh.a.tracker.flows)).source.received)
    server = await mesh.accept()
    assert await mesh.read(server, 5) == b"early"
    await eventually(lambda: kernel.calls.count("offer") >= 2, "once after the dial, once after the chunk")


@story
async def test_what_is_redirected_until_the_cut_is_recorded(mesh: Stage) -> None:
    kernel = play(mesh)
    client, server = await mesh.pair(mesh.VIP_NEAR)
    await mesh.echo(client, server)
    kernel.grows = 1000
    mesh.update(gone=(("workload", mesh.near.uid),))
    await mesh.expect_reset(client)
    for record in await mesh.records(mesh.a, 2):
        assert record.bytes_sent == 4, "it was withdrawn before its bytes were counted for good"
    assert kernel.withdrawn == [101]
    assert kernel.forgotten == [101]


@story
async def test_an_orderly_end_asks_the_kernel_for_nothing_more(mesh: Stage) -> None:
    kernel = play(mesh)
    client, server = await mesh.pair(mesh.VIP_NEAR)
    await mesh.finish(client, server)
    assert kernel.withdrawn == []


@story
async def test_a_stuck_flow_is_reset_and_its_workloads_are_relayed_from_then_on(mesh: Stage) -> None:
    kernel = play(mesh)
    told: list[dict[str, str]] = []
    splicing(mesh).on_stuck = told.append
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
    assert told == [{mesh.client.uid: "out splice", mesh.near.uid: "out splice"}]
    assert kernel.withdrawn == [101, 102], "the stuck one for its counts; the other goes back to relay"
    await mesh.echo(*untouched)
    asked = len(kernel.prepared)
    await mesh.echo(*await mesh.pair(mesh.VIP_NEAR))
    assert len(kernel.prepared) == asked
    rows, _ = flow_rows(mesh.a.tracker)
    assert {row["relayed_because"] for row in rows} == {"a flow of workload shop/client got stuck (out splice)"}


@story
async def test_what_the_manager_excludes_is_relayed_until_it_is_cleared(mesh: Stage) -> None:
    """A flow got stuck in another worker, or in one that is gone."""
    kernel = play(mesh)
    client, server = await mesh.pair(mesh.VIP_NEAR)
    await mesh.echo(client, server)
    splicing(mesh).exclude({mesh.near.uid: "out splice"})
    assert kernel.withdrawn == [101]
    await mesh.echo(*await mesh.pair(mesh.VIP_NEAR))
    assert len(kernel.prepared) == 1
    kernel.calls.clear()
    splicing(mesh).exclude({})
    assert kernel.calls == ["offer"]
    await mesh.echo(*await mesh.pair(mesh.VIP_NEAR))
    assert len(kernel.prepared) == 2


@story
async def test_everybody_is_relayed_until_it_is_lifted(mesh: Stage) -> None:
    """The manager still tests what the kernel does."""
    kernel = play(mesh)
    splicing(mesh).exclude({}, "too early")
    first = await mesh.pair(mesh.VIP_NEAR)
    await mesh.echo(*first)
    assert kernel.prepared == []
    splicing(mesh).exclude({})
    await mesh.echo(*first)
    assert kernel.prepared == [], "what began before stays in the relay"
    await mesh.echo(*await mesh.pair(mesh.VIP_NEAR))
    assert len(kernel.prepared) == 1


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
