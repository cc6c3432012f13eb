from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from control.wire.watch import Batch
from nodeagent.client.follow import UnusableBatchError
from nodeagent.client.session import Position
from nodeagent.client.statefile import StateDirectory
from nodeagent.manager import discovery as module
from nodeagent.manager.discovery import Discovery
from nodeagent.state.targets import Applied
from tests.support.objects import change, delta, gone, policy, snapshot, workload


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[StateDirectory]:
    directory = StateDirectory(tmp_path / "state")
    yield directory
    directory.close()


def take(discovery: Discovery, batch: Batch) -> None:
    asyncio.run(discovery.take(batch))


class Heard:
    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def __call__(self, batch: Batch, applied: Applied) -> None:
        self.batches.append(batch)


def test_batches_are_taken_in_and_handed_on(directory: StateDirectory) -> None:
    heard = Heard()
    discovery = Discovery(directory, heard)
    assert discovery.restore() is None
    take(discovery, snapshot(workload()))
    take(discovery, delta(workload("web-1")))
    assert heard.batches == [snapshot(workload()), delta(workload("web-1"))]
    assert len(discovery.state.workloads()) == 2
    assert discovery.mirror.snapshot() == snapshot(workload(), workload("web-1"), revision=2)


def test_a_heartbeat_is_not_handed_on_but_a_new_revision_is(directory: StateDirectory) -> None:
    heard = Heard()
    discovery = Discovery(directory, heard)
    take(discovery, snapshot(revision=1))
    take(discovery, delta(revision=1))
    take(discovery, delta(revision=5))
    assert heard.batches == [snapshot(revision=1), delta(revision=5)]


def test_the_state_outlives_the_agent(directory: StateDirectory) -> None:
    first = Discovery(directory, Heard())
    take(first, snapshot(workload(), revision=4))
    asyncio.run(first.save())
    heard = Heard()
    second = Discovery(directory, heard)
    assert second.restore() == Position("history-1", 4)
    assert heard.batches == [snapshot(workload(), revision=4)]
    assert second.state.ready


def test_a_batch_that_cannot_follow_changes_nothing(directory: StateDirectory) -> None:
    heard = Heard()
    discovery = Discovery(directory, heard)
    take(discovery, snapshot(workload(), revision=4))
    with pytest.raises(UnusableBatchError):
        take(discovery, delta(workload("x"), instance="other", revision=5))
    assert discovery.mirror.snapshot() == snapshot(workload(), revision=4)
    assert len(heard.batches) == 1


def test_an_object_that_cannot_be_read_is_named_and_still_reaches_the_workers(directory: StateDirectory) -> None:
    heard = Heard()
    discovery = Discovery(directory, heard)
    bad = snapshot(change(workload(), ports="many"), workload("web-1"))
    take(discovery, bad)
    assert "shop/web-0@1" in discovery.rejected[0]
    assert heard.batches == [bad], "each worker refuses it by itself"
    assert len(discovery.state.workloads()) == 1


def test_a_full_disk_is_told_and_tried_again(directory: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    discovery = Discovery(directory, Heard())
    take(discovery, snapshot())

    def full(batch: Batch, changes: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(directory, "save_discovery", full)
    asyncio.run(discovery.save())
    assert "No space left" in discovery.save_error
    monkeypatch.undo()
    asyncio.run(discovery.save())
    assert discovery.save_error == ""
    assert directory.load_discovery() == snapshot()


def test_a_change_is_appended_to_what_is_on_disk(directory: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    discovery = Discovery(directory, Heard())
    take(discovery, snapshot(*(workload(f"w-{number}") for number in range(100))))
    asyncio.run(discovery.save())
    appended: list[Batch] = []
    monkeypatch.setattr(directory, "append_discovery", appended.append)
    take(discovery, delta(workload("w-7", node="node-b"), revision=2))
    take(discovery, delta(workload("w-7", node="node-c"), gone(workload("w-8")), revision=3))
    asyncio.run(discovery.save())
    assert appended == [delta(workload("w-7", node="node-c"), gone(workload("w-8")), revision=3)]


def test_what_waits_to_be_saved_is_bounded(directory: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PENDING", 10)
    discovery = Discovery(directory, Heard())
    take(discovery, snapshot())
    asyncio.run(discovery.save())
    for number in range(30):
        take(discovery, delta(workload(f"w-{number}"), revision=number + 2))
        assert len(discovery._pending) <= 10
    asyncio.run(discovery.save())
    loaded = directory.load_discovery()
    assert loaded is not None and len(loaded.changes) == 30


def test_the_same_snapshot_again_is_no_news_to_anybody(directory: StateDirectory) -> None:
    heard = Heard()
    discovery = Discovery(directory, heard)
    things = [workload(f"w-{number}") for number in range(200)]
    take(discovery, snapshot(*things))
    take(discovery, snapshot(*things, instance="history-2", revision=1))
    assert heard.batches[1] == delta(instance="history-2", revision=1), "another history of the same content"
    take(discovery, snapshot(*things[1:], policy(), instance="history-2", revision=9))
    assert set(heard.batches[2].changes) == {gone(things[0]), change(policy())}
    assert (discovery.state.instance, discovery.state.revision) == ("history-2", 9)
    assert len(discovery.state.workloads()) == 199


def test_an_object_named_twice_is_what_was_said_last(directory: StateDirectory) -> None:
    heard = Heard()
    discovery = Discovery(directory, heard)
    take(discovery, snapshot(workload()))
    take(discovery, delta(workload(node="node-b"), workload(), revision=2))
    assert heard.batches[1].changes == () and discovery.state.workloads() == (workload(),)


def test_a_saved_state_with_a_hole_is_used_but_not_resumed(directory: StateDirectory) -> None:
    directory.save_discovery(snapshot(workload(policies=("shop/p",)), revision=4))
    heard = Heard()
    discovery = Discovery(directory, heard)
    assert discovery.restore() is None, "resuming would never bring the policy"
    assert discovery.missing == ("policy shop/p",)
    assert len(heard.batches) == 1, "the data path goes on with what there is"
    take(discovery, snapshot(workload(policies=("shop/p",)), policy("p"), revision=4))
    assert discovery.missing == ()


def test_a_hole_that_a_change_leaves_is_told(directory: StateDirectory) -> None:
    discovery = Discovery(directory, Heard())
    take(discovery, snapshot(workload(policies=("shop/p",)), policy("p")))
    assert discovery.missing == ()
    take(discovery, delta(gone(policy("p"))))
    assert discovery.missing == ("policy shop/p",)
