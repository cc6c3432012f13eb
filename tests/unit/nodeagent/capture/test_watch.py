"""Being told that something changed, where and as long as it is watched."""

from __future__ import annotations

import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.capture.watch import Watch


@pytest.fixture
def watch() -> Iterator[Watch]:
    made = Watch()
    yield made
    made.close()


def told(watch: Watch) -> bool:
    readable = bool(select.select([watch], [], [], 0)[0])
    watch.drain()
    return readable


def test_what_comes_changes_and_goes_is_told(watch: Watch, tmp_path: Path) -> None:
    watch.follow([tmp_path])
    assert not told(watch)
    (tmp_path / "new").mkdir()
    assert told(watch) and not told(watch)
    file = tmp_path / "cgroup.events"
    file.write_text("populated 0")
    watch.follow([file])
    assert told(watch)
    file.write_text("populated 1")
    assert told(watch)
    (tmp_path / "new").rmdir()
    assert not told(watch), "not watched any more"


def test_what_is_made_anew_is_watched_anew(watch: Watch, tmp_path: Path) -> None:
    place = tmp_path / "shop"
    watch.follow([place])
    for _ in range(2):
        place.mkdir()
        watch.follow([place])
        told(watch)
        (place / "web").mkdir()
        assert told(watch)
        (place / "web").rmdir()
        place.rmdir()
        assert told(watch)
