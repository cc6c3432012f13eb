"""containerd's database, which is read while containerd has it."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nodeagent.containers import bolt
from nodeagent.containers.containerd import containerd_change, containerd_labels
from nodeagent.containers.facts import StateError
from tests.unit.nodeagent.containers import made

SOLO = {"app": "web", "tier": "z", "io.containerd.image.config.stop-signal": "SIGTERM"}


def test_labels_beside_a_containerd_that_runs(tmp_path: Path) -> None:
    """It holds the lock meanwhile. An id of two of its namespaces has no labels: nothing tells which is meant."""
    with made.containerd(tmp_path).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        found = containerd_labels(tmp_path)
    assert (found["solo"], found["twice"], set(found)) == (SOLO, {}, {"solo", "bare", "twice"})


def test_without_containerd_there_is_nothing(tmp_path: Path) -> None:
    assert (containerd_labels(tmp_path), containerd_change(tmp_path)) == ({}, ())


def test_every_transaction_is_a_change(tmp_path: Path) -> None:
    path = made.containerd(tmp_path)
    seen = {containerd_change(tmp_path)}
    for _ in range(3):
        made.commit(path)
        seen.add(containerd_change(tmp_path))
    assert len(seen) == 4


def meddling(monkeypatch: pytest.MonkeyPatch, path: Path, times: int) -> None:
    """Another transaction between the looks before and after reading, so many times."""
    newest: Callable[[Any], Any] = bolt._newest
    looks = iter(range(1000))

    def look(stream: Any) -> Any:
        number = next(looks)
        if number % 2 and number < 2 * times:
            made.commit(path)
        return newest(stream)

    monkeypatch.setattr(bolt, "_newest", look)


def test_what_was_written_to_meanwhile_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meddling(monkeypatch, made.containerd(tmp_path), bolt.MAX_TRIES - 1)
    assert containerd_labels(tmp_path)["solo"] == SOLO


def test_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meddling(monkeypatch, made.containerd(tmp_path), bolt.MAX_TRIES)
    with pytest.raises(StateError, match="containerd wrote to it each time"):
        containerd_labels(tmp_path)


@pytest.mark.parametrize("page", [0, 1])
def test_a_meta_page_that_is_half_written_does_not_count(tmp_path: Path, page: int) -> None:
    path = made.containerd(tmp_path)
    with path.open("r+b") as stream:
        stream.seek(page * 4096 + 16 + 32)
        stream.write(b"\xff" * 8)
    assert containerd_labels(tmp_path)["solo"]["app"] == "web"
    with path.open("r+b") as stream:
        stream.seek((1 - page) * 4096 + 16 + 32)
        stream.write(b"\xff" * 8)
    with pytest.raises(StateError, match="not a bolt database"):
        containerd_labels(tmp_path)


def test_what_others_can_write_is_not_believed(tmp_path: Path) -> None:
    made.containerd(tmp_path).chmod(0o666)
    for read in (containerd_labels, containerd_change):
        with pytest.raises(StateError, match="only what nobody but root can write"):
            read(tmp_path)
