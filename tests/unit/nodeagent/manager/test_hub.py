from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from nodeagent import channel
from nodeagent.client.mirror import Mirror
from nodeagent.manager import hub as module
from nodeagent.manager import link as link_module
from nodeagent.manager.hub import Hub
from nodeagent.manager.link import WorkerLink
from nodeagent.manager.packing import Packing
from nodeagent.manager.parting import PART_CHANGES
from nodeagent.telemetry.aggregate import Aggregate
from nodeagent.telemetry.samples import CounterSample
from tests.support.objects import delta, policy, snapshot, workload

START = channel.Start(
    node="node-a", index=0, outbound_port=1, tunnel_port=2, tunnel_addresses=("::",), pin_dir="", access_log="off"
)
SVID = channel.Svid(identity="spiffe://mesh.internal/ns/shop/sa/web", chain="c", key="k")


class Clock:
    def __call__(self) -> float:
        return 0.0


@dataclass
class Peer:
    """The worker's end, played by the test."""

    link: WorkerLink
    sock: socket.socket
    unpacker: channel.Unpacker = field(default_factory=channel.Unpacker)
    heard: list[channel.Message] = field(default_factory=list)

    async def hears(self, count: int) -> list[channel.Message]:
        """The next ``count`` messages."""
        loop = asyncio.get_running_loop()
        while len(self.heard) < count:
            data = await loop.sock_recv(self.sock, 65536)
            assert data, "the manager closed the socket"
            self.heard += self.unpacker.feed(data)
        result, self.heard = self.heard[:count], self.heard[count:]
        return result

    async def says(self, message: channel.Message) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, channel.pack(message))


@dataclass
class Scene:
    """A hub and its workers."""

    hub: Hub
    mirror: Mirror
    aggregate: Aggregate
    changes: list[int]
    peers: list[Peer] = field(default_factory=list)

    async def worker(self, index: int = 0, *, ready: bool = True) -> Peer:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        link = self.hub.new_link(index)
        await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=ours)
        self.hub.attach(link)
        peer = Peer(link, theirs)
        self.peers.append(peer)
        if ready:
            await peer.says(channel.Ready(pid=100 + index))
            while not link.ready:
                await asyncio.sleep(0)
        return peer


def play(story: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        mirror, aggregate, changes = Mirror(), Aggregate(Clock()), list[int]()
        scene = Scene(
            Hub(lambda: START, mirror, aggregate, lambda: changes.append(1), Packing(2)), mirror, aggregate, changes
        )
        try:
            await story(scene)
        finally:
            for peer in scene.peers:
                peer.link.abort()
                peer.sock.close()
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(run(), 20))


def test_a_new_worker_is_told_everything_in_order() -> None:
    async def story(scene: Scene) -> None:
        scene.mirror.apply(snapshot(workload()))
        scene.hub.publish_svid(SVID)
        scene.hub.publish_enrolment({7: "shop/web-0@1"})
        peer = await scene.worker(3)
        start, batch, enrolment, svid, begin = await peer.hears(5)
        assert isinstance(start, channel.Start)
        assert (start.index, start.node) == (3, "node-a")
        assert batch == channel.StateBatch(batch=snapshot(workload()))
        assert enrolment == channel.EnrolmentUpdate(cgroups={"7": "shop/web-0@1"}, edition=1)
        assert (svid, begin) == (SVID, channel.Begin()), "it accepts nothing before it knows everything"

    play(story)


def test_without_state_no_batch_is_sent_for_an_empty_mesh_is_a_claim() -> None:
    async def story(scene: Scene) -> None:
        peer = await scene.worker()
        assert [type(m).__name__ for m in await peer.hears(3)] == ["Start", "EnrolmentUpdate", "Begin"]
        scene.mirror.apply(snapshot())
        scene.hub.publish(snapshot())
        assert await peer.hears(1) == [channel.StateBatch(batch=snapshot())]

    play(story)


def test_changes_go_to_every_worker_and_survive_for_the_next() -> None:
    async def story(scene: Scene) -> None:
        scene.mirror.apply(snapshot())
        peers = [await scene.worker(index) for index in range(2)]
        for peer in peers:
            await peer.hears(4)
        scene.mirror.apply(delta(workload()))
        scene.hub.publish(delta(workload()))
        scene.hub.publish_svid(SVID)
        scene.hub.publish_svid(channel.Svid(identity=SVID.identity, chain="", key=""))
        for peer in peers:
            batch, svid, end = await peer.hears(3)
            assert batch == channel.StateBatch(batch=delta(workload()))
            assert (svid, end) == (SVID, channel.Svid(identity=SVID.identity, chain="", key=""))
        late = await scene.worker(2)
        heard = await late.hears(4)
        assert heard[1] == channel.StateBatch(batch=snapshot(workload(), revision=2))
        assert not late.heard

    play(story)


def test_a_large_batch_goes_out_in_parts_and_what_comes_behind_it_stays_behind() -> None:
    async def story(scene: Scene) -> None:
        peer = await scene.worker()
        await peer.hears(3)
        things = [workload(f"w-{number}", addresses=()) for number in range(3000)]
        scene.mirror.apply(snapshot(*things))
        scene.hub.publish(snapshot(*things))
        scene.hub.publish(delta(policy()))
        scene.hub.publish_svid(SVID)
        parts: list[channel.StateBatch] = []
        while not parts or parts[-1].more:
            (part,) = await peer.hears(1)
            assert isinstance(part, channel.StateBatch)
            parts.append(part)
        assert len(parts) > 10 and max(len(part.batch.changes) for part in parts) <= PART_CHANGES
        assert [change for part in parts for change in part.batch.changes] == list(snapshot(*things).changes)
        assert await peer.hears(2) == [channel.StateBatch(batch=delta(policy())), SVID]

    play(story)


def test_an_enrolment_that_did_not_change_is_not_repeated() -> None:
    async def story(scene: Scene) -> None:
        peer = await scene.worker()
        await peer.hears(3)
        for _ in range(3):
            scene.hub.publish_enrolment({7: "w"})
        scene.hub.publish_svid(SVID)
        assert await peer.hears(2) == [channel.EnrolmentUpdate(cgroups={"7": "w"}, edition=1), SVID]

    play(story)


def test_an_edition_counts_as_heard_once_every_worker_that_serves_has_said_so() -> None:
    async def story(scene: Scene) -> None:
        assert scene.hub.heard == -1, "nobody"
        first, second = await scene.worker(0), await scene.worker(1)
        starting = await scene.worker(2, ready=False)
        edition = scene.hub.publish_enrolment({7: "w"})
        for peer, heard in ((first, -1), (second, edition)):
            assert scene.hub.heard < edition, "one does not know it yet"
            changes = len(scene.changes)
            await peer.says(channel.Heard(edition=edition))
            while len(scene.changes) == changes:
                await asyncio.sleep(0)
            assert scene.hub.heard == heard
        await starting.says(channel.Ready(pid=9))
        while not starting.link.ready:
            await asyncio.sleep(0)
        assert scene.hub.heard == -1, "a worker that serves and does not know"
        assert scene.hub.publish_enrolment({7: "w"}) == edition

    play(story)


def sample(value: float) -> CounterSample:
    return CounterSample(name="x_total", labels={}, value=value)


def test_what_gets_stuck_in_one_worker_is_told_to_all_and_to_those_that_come_later() -> None:
    async def story(scene: Scene) -> None:
        scene.hub.on_stuck = scene.hub.publish_exclusions
        first, second = await scene.worker(0), await scene.worker(1)
        for peer in (first, second):
            await peer.hears(3)
        await first.says(channel.SpliceStuck(workloads={"shop/go@1": "out splice"}))
        told = channel.SpliceExclusions(workloads={"shop/go@1": "out splice"})
        assert [await peer.hears(1) for peer in (first, second)] == [[told], [told]]
        scene.hub.detach(first.link)
        assert told in await (await scene.worker(2)).hears(3)
        scene.hub.publish_exclusions({})
        assert await second.hears(1) == [channel.SpliceExclusions(workloads={})]
        assert [type(m).__name__ for m in await (await scene.worker(3)).hears(3)] == [
            "Start",
            "EnrolmentUpdate",
            "Begin",
        ]

    play(story)


def test_that_everybody_is_kept_out_is_told_before_there_is_anybody() -> None:
    async def story(scene: Scene) -> None:
        scene.hub.publish_exclusions({}, "tested yet")
        heard = await (await scene.worker(0)).hears(2)
        assert heard[1] == channel.SpliceExclusions(workloads={}, everybody="tested yet")

    play(story)


def test_metrics_are_collected_from_all_and_a_dead_worker_is_not_waited_for() -> None:
    async def story(scene: Scene) -> None:
        first, second = await scene.worker(0), await scene.worker(1)
        await scene.worker(2, ready=False)
        task = asyncio.ensure_future(scene.hub.collect())
        question = (await first.hears(4))[-1]
        assert isinstance(question, channel.Collect)
        await first.says(channel.collected(question.number, [sample(2)]))
        await second.hears(4)
        scene.hub.detach(second.link)
        await task
        assert [s.value for s in scene.aggregate.samples()] == [2]

    play(story)


def test_a_worker_that_does_not_answer_costs_its_own_answer_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.05)

    async def story(scene: Scene) -> None:
        first, _ = await scene.worker(0), await scene.worker(1)
        task = asyncio.ensure_future(scene.hub.flows())
        question = (await first.hears(4))[-1]
        assert isinstance(question, channel.ListFlows)
        await first.says(channel.FlowList(number=question.number, flows=({"id": 1},), tunnels=({"to": "b"},)))
        assert await task == {
            "flows": [{"worker": 0, "id": 1}],
            "tunnels": [{"worker": 0, "to": "b"}],
            "truncated": False,
            "unanswered": 1,
        }

    play(story)


def test_a_late_answer_is_counted_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.02)

    async def story(scene: Scene) -> None:
        peer = await scene.worker()
        await scene.hub.collect()
        question = (await peer.hears(4))[-1]
        assert isinstance(question, channel.Collect)
        await peer.says(channel.collected(question.number, [sample(2)]))
        while not scene.aggregate.samples():
            await asyncio.sleep(0)
        assert [s.value for s in scene.aggregate.samples()] == [2]

    play(story)


def test_draining_waits_for_every_worker_and_counts_what_was_cut() -> None:
    async def story(scene: Scene) -> None:
        first, second = await scene.worker(0), await scene.worker(1)
        task = asyncio.ensure_future(scene.hub.drain(10))
        assert (await first.hears(4))[-1] == channel.Drain(seconds=10)
        await first.says(channel.Drained(cut=3))
        await second.hears(4)
        scene.hub.detach(second.link)
        assert await task == 3

    play(story)


def test_nonsense_from_a_worker_ends_it() -> None:
    async def story(scene: Scene) -> None:
        peer = await scene.worker()
        await asyncio.get_running_loop().sock_sendall(peer.sock, b"\x00\x00\x00\x02{}")
        await peer.link.lost.wait()
        assert scene.hub.serving == 0

    play(story)


def test_a_worker_that_does_not_read_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "MAX_BACKLOG_BYTES", 1_000_000)

    async def story(scene: Scene) -> None:
        peer = await scene.worker()
        big = channel.Svid(identity="i", chain="c" * 400_000, key="k")
        for _ in range(10):
            scene.hub.publish_svid(big)
        await peer.link.lost.wait()

    play(story)


def test_readiness_and_revision_are_known() -> None:
    async def story(scene: Scene) -> None:
        peer = await scene.worker(1)
        await peer.says(channel.BatchApplied(revision=9, rejected=("policy p: bad",)))
        while peer.link.revision != 9:
            await asyncio.sleep(0)
        assert (scene.hub.serving, peer.link.pid, peer.link.rejected) == (1, 101, ("policy p: bad",))
        assert scene.changes
        scene.hub.detach(peer.link)
        assert scene.hub.serving == 0

    play(story)
