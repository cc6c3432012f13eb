"""Wherever a power cut leaves the file, what is read is a state that control sent, and the file can be gone on with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control.wire.watch import Batch
from nodeagent.client import journal as module
from nodeagent.client.journal import MAGIC, Journal
from nodeagent.client.mirror import Mirror
from nodeagent.client.statefile import _replace
from tests.support.objects import delta, gone, policy, snapshot, workload

NAMES = ("w-0", "w-1", "w-2", "w-3")
deltas = st.lists(
    st.lists(
        st.one_of(
            st.builds(workload, st.sampled_from(NAMES), node=st.sampled_from(("a", "b"))),
            st.builds(lambda name: gone(workload(name)), st.sampled_from(NAMES)),
            st.builds(policy, st.sampled_from(("p", "q"))),
        ),
        max_size=5,
    ),
    max_size=4,
)


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A journal of batches of several records, on a disk that does not make us wait."""
    monkeypatch.setattr(module, "PART_CHANGES", 2)
    monkeypatch.setattr(module.logger, "disabled", True)
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: None)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    return tmp_path / "journal"


def contents(batch: Batch) -> tuple[int, dict[tuple[str, str], bytes | None]]:
    return batch.revision, {(change.kind, change.uid): change.value for change in batch.changes}


def written(path: Path, story: list[list[object]]) -> list[tuple[int, Batch]]:
    """(length of the file, state) after the snapshot and after each delta."""
    journal, mirror = Journal(path, _replace), Mirror()
    mirror.apply(snapshot(workload("w-0"), workload("w-9"), policy("p")))
    journal.replace(mirror.snapshot(), mirror.snapshot().changes)
    ends = [(path.stat().st_size, mirror.snapshot())]
    for number, items in enumerate(story):
        batch = delta(*items, revision=2 + number)  # type: ignore[arg-type]
        mirror.apply(batch)
        journal.append(batch)
        ends.append((path.stat().st_size, mirror.snapshot()))
    return ends


def check(path: Path, whole: bytes, cut: int, ends: list[tuple[int, Batch]]) -> None:
    path.write_bytes(whole[:cut])
    journal = Journal(path, _replace)
    loaded = journal.load()
    expected = [state for end, state in ends if end <= cut]
    if not expected:
        assert loaded is None and journal.full
        return
    assert loaded is not None and contents(loaded) == contents(expected[-1])
    journal.append(delta(policy("late"), revision=99))  # what was cut off is gone: a delta behind it is read again
    again = Journal(path, _replace).load()
    assert again is not None and again.revision == 99
    assert contents(again)[1].keys() == {*contents(loaded)[1], ("policy", "shop/late")}


def test_a_file_that_was_cut_at_any_byte_is_the_state_of_its_last_whole_batch(quick: Path) -> None:
    ends = written(quick, [[workload("w-1"), gone(workload("w-0")), policy("q")], [], [workload("w-9", node="b")]])
    whole = quick.read_bytes()
    for cut in range(len(whole) + 1):
        check(quick, whole, cut, ends)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(story=deltas, data=st.data())
def test_so_it_is_with_any_story(quick: Path, story: list[list[object]], data: st.DataObject) -> None:
    ends = written(quick, story)
    whole = quick.read_bytes()
    for cut in data.draw(st.lists(st.integers(0, len(whole)), min_size=1, max_size=20)):
        check(quick, whole, cut, ends)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(story=deltas, data=st.data())
def test_a_byte_that_changed_ends_the_file_before_it(
    quick: Path, story: list[list[object]], data: st.DataObject
) -> None:
    ends = written(quick, story)
    content = bytearray(quick.read_bytes())
    position = data.draw(st.integers(len(MAGIC), len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    quick.write_bytes(content)
    loaded = Journal(quick, _replace).load()
    expected = [state for end, state in ends if end <= position]
    assert (loaded and contents(loaded)) == (contents(expected[-1]) if expected else None)
