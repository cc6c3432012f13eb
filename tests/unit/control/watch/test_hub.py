"""Snapshot, deltas, resuming: whoever follows the batches holds what a newcomer is given."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from control.codec.content import Content
from control.codec.lines import read_whole
from control.codec.values import to_json
from control.kinds.base.mesh import Mesh
from control.registry.registry import Registry
from control.store.memory import MemoryStore
from control.watch import hub as hub_module
from control.watch.hub import Hub, NotReadyError, TooManyWatchersError
from control.watch.session import MAX_QUEUE, Session
from control.wire.watch import Batch, Change
from tests.support.mesh import Clock, make_registry, node, policy, service, workload

MESH = Mesh(trust_domain="mesh.internal", cluster="lab", roots=("PEM",))
WAIT = 20.0


class Lab:
    """A hub that runs, over a registry in memory."""

    def __init__(self, registry: Registry, store: MemoryStore) -> None:
        self.registry, self.store, self.clock = registry, store, Clock()
        self.hub = Hub(store, registry, MESH, self.clock)
        self.errors: list[str] = []

    def open(
        self,
        instance: str | None = None,
        revision: int | None = None,
        on_overflow: Any = lambda: None,
        content: str = "",
    ) -> Session:
        return self.hub.open("node-a", instance, revision, on_overflow, content)

    async def digest(self) -> str:
        """Of all that an agent holds that was given a snapshot now."""
        session = self.open()
        digest = digest_of((await receive(session)).changes)
        self.hub.release(session)
        return digest

    async def apply(self, *values: Any) -> None:
        """Apply, and wait until the hub has told everybody."""
        self.registry.apply(values)
        await self.settle()

    async def settle(self) -> None:
        async with asyncio.timeout(WAIT):
            while not self.hub.ready or self.hub.revision < self.registry.revision:
                await asyncio.sleep(0)


def play(story: Callable[[Lab], Awaitable[None]]) -> None:
    async def run() -> None:
        registry, store = make_registry()
        registry.apply([node()])
        lab = Lab(registry, store)
        task = asyncio.ensure_future(lab.hub.run(lab.errors.append))
        try:
            await lab.settle()
            await story(lab)
        finally:
            lab.hub.close()
            async with asyncio.timeout(WAIT):
                await task

    asyncio.run(run())


def digest_of(changes: tuple[Change, ...]) -> str:
    content = Content()
    for change in changes:
        content.put(change.kind, change.uid, change.value)
    return content.digest()


async def receive(session: Session) -> Batch:
    item = await session.next(WAIT)
    assert item is not None
    assert item[1].endswith(b"\n") and item[1].count(b"\n") == 1
    batch = read_whole(item[1])
    assert batch.revision == item[0]
    return batch


def names(batch: Batch) -> list[tuple[str, str, bool]]:
    return [(c.kind, c.uid, c.value is not None) for c in batch.changes]


def test_a_newcomer_gets_a_snapshot_then_deltas() -> None:
    async def story(lab: Lab) -> None:
        session = lab.open()
        first = await receive(session)
        assert first.snapshot and first.instance == lab.hub.instance
        assert names(first) == [("bundle", "mesh.internal", True), ("mesh", "mesh", True)]
        await lab.apply(workload(), service(), policy())
        delta = await receive(session)
        assert not delta.snapshot and delta.revision == 2
        assert names(delta) == [
            ("policy", "shop/deny@2", True),
            ("workload", "shop/web-0@2", True),
            ("service", "shop/web@2", True),
        ]
        lab.registry.delete([(("Workload", "shop", "web-0"), None)])
        gone = await receive(session)
        assert names(gone) == [("service", "shop/web@2", True), ("workload", "shop/web-0@2", False)]

    play(story)


def test_a_change_of_one_resource_reaches_what_follows_from_it() -> None:
    """The workload itself is not written, but it is told of the policy that now selects it."""

    async def story(lab: Lab) -> None:
        await lab.apply(workload())
        session = lab.open()
        await receive(session)
        await lab.apply(policy())
        assert names(await receive(session)) == [("policy", "shop/deny@3", True), ("workload", "shop/web-0@2", True)]

    play(story)


def test_resuming_gives_exactly_what_was_missed() -> None:
    async def story(lab: Lab) -> None:
        await lab.apply(workload())
        before, content = lab.hub.revision, await lab.digest()
        await lab.apply(policy())
        await lab.apply(policy("other"))
        session = lab.open(lab.hub.instance, before, content=content)
        assert [names(await receive(session))[0][1] for _ in range(2)] == ["shop/deny@3", "shop/other@4"]
        assert await session.next(0) is None
        current = await receive(lab.open(lab.hub.instance, lab.hub.revision, content=await lab.digest()))
        assert (current.snapshot, current.changes, current.revision) == (False, (), 4)

    play(story)


@pytest.mark.parametrize(
    "claim",
    [
        "no revision", "another instance", "the future", "before history", "too far behind", "no content",
        "content of another history", "content of another revision",
    ],
)  # fmt: skip
def test_what_cannot_be_resumed_gets_a_snapshot(claim: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "HISTORY", 40 if claim == "too far behind" else 2)

    async def story(lab: Lab) -> None:
        digests = {}
        for number in range(36):
            await lab.apply(policy(f"p-{number}"))
            digests[lab.hub.revision] = await lab.digest()
        now, instance = lab.hub.revision, lab.hub.instance
        session = {
            "no revision": lambda: lab.open(instance, None, content=digests[now]),
            "another instance": lambda: lab.open("other", now, content=digests[now]),
            "the future": lambda: lab.open(instance, now + 1, content=digests[now]),
            "before history": lambda: lab.open(instance, now - 3, content=digests[now - 3]),
            "too far behind": lambda: lab.open(instance, now - 34, content=digests[now - 34]),
            "no content": lambda: lab.open(instance, now),
            "content of another history": lambda: lab.open(instance, now, content="f" * 64),
            "content of another revision": lambda: lab.open(instance, now - 1, content=digests[now - 2]),
        }[claim]()
        first = await receive(session)
        assert first.snapshot and len(first.changes) == 38
        assert await session.next(0) is None

    play(story)


def test_the_edge_of_history_can_be_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "HISTORY", 2)

    async def story(lab: Lab) -> None:
        digests = {}
        for number in range(5):
            await lab.apply(policy(f"p-{number}"))
            digests[lab.hub.revision] = await lab.digest()
        session = lab.open(lab.hub.instance, lab.hub.revision - 2, content=digests[lab.hub.revision - 2])
        assert [(await receive(session)).revision for _ in range(2)] == [5, 6]

    play(story)


def test_a_restart_that_changes_nothing_sends_no_object() -> None:
    async def story(lab: Lab) -> None:
        await lab.apply(workload(), service(), policy())
        instance, revision, content = lab.hub.instance, lab.hub.revision, await lab.digest()
        lab.store.put("/tokens/x", b"{}")  # what agents never see moves the revision all the same
        again = Hub(lab.store, lab.registry, MESH, lab.clock)
        task = asyncio.ensure_future(again.run(lab.errors.append))
        try:
            async with asyncio.timeout(WAIT):
                while not again.ready:
                    await asyncio.sleep(0)
            batch = await receive(again.open("node-a", instance, revision, lambda: None, content))
            assert (batch.snapshot, batch.changes, batch.instance) == (False, (), instance)
            older = await receive(again.open("node-a", instance, revision, lambda: None, "0" * 64))
            assert older.snapshot and len(older.changes) == 5
        finally:
            again.close()
            await task

    play(story)


def test_an_object_is_encoded_when_it_changes_and_then_never_again(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[object] = []

    def counted(value: object) -> bytes:
        encoded.append(value)
        return to_json(value)

    async def story(lab: Lab) -> None:
        await lab.apply(*(workload(f"w-{number}", {"app": str(number)}) for number in range(20)))
        monkeypatch.setattr(hub_module, "to_json", counted)
        await lab.apply(workload("w-3", {"app": "new"}))
        for _ in range(3):
            assert len((await receive(lab.open())).changes) == 22
        assert [getattr(value, "name", "") for value in encoded] == ["w-3"]

    play(story)


def test_following_from_anywhere_ends_at_the_same_state() -> None:
    async def story(lab: Lab) -> None:
        sessions = [lab.open()]
        states: list[dict[tuple[str, str], Any]] = [{}]
        for number in range(12):
            await lab.apply(workload(f"w-{number % 4}", {"app": str(number)}), policy(f"p-{number % 3}", rules=[]))
            if number % 5 == 4:
                lab.registry.delete([(("Workload", "shop", f"w-{number % 4}"), None)])
                await lab.settle()
            sessions.append(lab.open())
            states.append({})
            if len(sessions) > 3:
                lab.hub.release(sessions[1])
                del sessions[1], states[1]
            for session, state in zip(sessions, states, strict=True):
                while (item := await session.next(0)) is not None:
                    batch = read_whole(item[1])
                    if batch.snapshot:
                        state.clear()
                    for change in batch.changes:
                        state.pop((change.kind, change.uid), None)
                        if change.value is not None:
                            state[change.kind, change.uid] = change.value
            fresh = lab.open()
            whole = {(c.kind, c.uid): c.value for c in (await receive(fresh)).changes}
            lab.hub.release(fresh)
            assert all(state == whole for state in states)

    play(story)


def test_a_slow_watcher_is_cut_off_and_others_are_not() -> None:
    async def story(lab: Lab) -> None:
        cut: list[str] = []
        slow, quick = lab.open(on_overflow=lambda: cut.append("slow")), lab.open()
        received = 0
        for number in range(MAX_QUEUE + 1):
            await lab.apply(policy(f"p-{number}"))
            while await quick.next(0):
                received += 1
        assert cut == ["slow"] and slow.closed and not quick.closed
        assert received == MAX_QUEUE + 2

    play(story)


def test_bounds_on_watchers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(lab: Lab) -> None:
        sessions = [lab.open() for _ in range(hub_module.MAX_WATCHERS_PER_NODE)]
        with pytest.raises(TooManyWatchersError, match="node node-a"):
            lab.open()
        lab.hub.release(sessions[0])
        lab.hub.release(sessions[0])
        lab.open()
        monkeypatch.setattr(hub_module, "MAX_WATCHERS", 4)
        with pytest.raises(TooManyWatchersError, match="4 watches"):
            lab.hub.open("node-b", None, None, lambda: None)

    play(story)


def test_a_removed_node_is_cut_off() -> None:
    async def story(lab: Lab) -> None:
        session = lab.open()
        lab.registry.delete([(("Node", "", "node-a"), None)])
        await lab.settle()
        assert session.closed
        assert lab.hub.statuses() == []

    play(story)


def test_statuses_say_who_watches_and_how_far() -> None:
    async def story(lab: Lab) -> None:
        await lab.apply(node("node-b", "10.0.0.2"))
        session = lab.open()
        revision, _ = await session.next(0) or (0, b"")
        lab.hub.sent(session, revision)
        first, second = lab.hub.statuses()
        assert (first.node, first.watching, first.last_seen, first.revision) == ("node-a", 1, lab.clock.now, 2)
        assert (second.node, second.watching, second.last_seen) == ("node-b", 0, None)
        lab.hub.release(session)
        assert (lab.hub.statuses()[0].watching, lab.hub.statuses()[0].revision) == (0, 2)

    play(story)


def test_keys_that_are_no_resources_only_move_the_heartbeat() -> None:
    async def story(lab: Lab) -> None:
        session = lab.open()
        await receive(session)
        lab.store.put("/tokens/x", b"{}")
        assert await session.next(0) is None

    play(story)


def test_not_ready_before_the_first_read() -> None:
    registry, store = make_registry()
    with pytest.raises(NotReadyError):
        Hub(store, registry, MESH).open("node-a", None, None, lambda: None)


def test_the_instance_is_the_store_and_how_its_resources_become_objects() -> None:
    registry, store = make_registry()
    one, two = Hub(store, registry, MESH).instance, Hub(store, registry, MESH).instance
    assert one == two and one.startswith(store.instance)
    for other in (replace(MESH, cluster="b"), replace(MESH, roots=("X",)), replace(MESH, domain="x.internal")):
        assert Hub(store, registry, other).instance != one
