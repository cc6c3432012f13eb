from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from control.wire.watch import Batch
from nodeagent.client.follow import UnusableBatchError
from nodeagent.client.session import Position
from nodeagent.client.statefile import StateDirectory
from nodeagent.manager.discovery import Discovery
from nodeagent.state.targets import Applied
from tests.support.objects import change, delta, gone, policy, snapshot, workload


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[StateDirectory]:
    directory = StateDirectory(tmp_path / "state")
    yield directory
    directory.close()


class Heard:
    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def __call__(self, batch: Batch, applied: Applied) -> None:
        self.batches.append(batch)


def test_batches_are_taken_in_and_handed_on(directory: StateDirectory) -> None:
    heard = Heard()
    discovery = Discovery(directory, heard)
    assert discovery.restore() is None
    discovery.take(snapshot(workload()))
    discovery.take(delta(workload("web-1")))
    assert heard.batches == [snapshot(workload()), delta(workload("web-1"))]
    assert len(discovery.state.workloads()) == 2
    assert discovery.mirror.snapshot() == snapshot(workload(), workload("web-1"), revision=2)


def test_a_heartbeat_is_not_handed_on_but_a_new_revision_is(directory: StateDirectory) -> None:
    heard = Heard()
    discovery = Discovery(directory, heard)
    discovery.take(snapshot(revision=1))
    discovery.take(delta(revision=1))
    discovery.take(delta(revision=5))
    assert heard.batches == [snapshot(revision=1), delta(revision=5)]


def test_the_state_outlives_the_agent(directory: StateDirectory) -> None:
    first = Discovery(directory, Heard())
    first.take(snapshot(workload(), revision=4))
    asyncio.run(first.save())
    heard = Heard()
    second = Discovery(directory, heard)
    assert second.restore() == Position("history-1", 4)
    assert heard.batches == [snapshot(workload(), revision=4)]
    assert second.state.ready


def test_a_batch_that_cannot_follow_changes_nothing(directory: StateDirectory) -> None:
    heard = Heard()
    discovery = Discovery(directory, heard)
    discovery.take(snapshot(workload(), revision=4))
    with pytest.raises(UnusableBatchError):
        discovery.take(delta(workload("x"), instance="other", revision=5))
    assert discovery.mirror.snapshot() == snapshot(workload(), revision=4)
    assert len(heard.batches) == 1


def test_an_object_that_cannot_be_read_is_named_and_still_reaches_the_workers(directory: StateDirectory) -> None:
    heard = Heard()
    discovery = Discovery(directory, heard)
    bad = snapshot(change(workload(), ports="many"), workload("web-1"))
    discovery.take(bad)
    assert "shop/web-0@1" in discovery.rejected[0]
    assert heard.batches == [bad], "each worker refuses it by itself"
    assert len(discovery.state.workloads()) == 1


def test_a_full_disk_is_told_and_tried_again(directory: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    discovery = Discovery(directory, Heard())
    discovery.take(snapshot())

    def full(batch: Batch) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(directory, "save_discovery", full)
    asyncio.run(discovery.save())
    assert "No space left" in discovery.save_error
    monkeypatch.undo()
    asyncio.run(discovery.save())
    assert discovery.save_error == ""
    assert directory.load_discovery() == snapshot()


def test_a_saved_state_with_a_hole_is_used_but_not_resumed(directory: StateDirectory) -> None:
    directory.save_discovery(snapshot(workload(policies=("shop/p",)), revision=4))
    heard = Heard()
    discovery = Discovery(directory, heard)
    assert discovery.restore() is None, "resuming would never bring the policy"
    assert discovery.missing == ("policy shop/p",)
    assert len(heard.batches) == 1, "the data path goes on with what there is"
    discovery.take(snapshot(workload(policies=("shop/p",)), policy("p"), revision=4))
    assert discovery.missing == ()


def test_a_hole_that_a_change_leaves_is_told(directory: StateDirectory) -> None:
    discovery = Discovery(directory, Heard())
    discovery.take(snapshot(workload(policies=("shop/p",)), policy("p")))
    assert discovery.missing == ()
    discovery.take(delta(gone(policy("p"))))
    assert discovery.missing == ("policy shop/p",)
