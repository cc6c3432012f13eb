"""A reader is told of every change since it looked, or that it cannot be told."""

from __future__ import annotations

from nodeagent.state.recent import MAX_BATCHES, MAX_REMEMBERED, RecentChanges

A, B, C = (("workload", name) for name in "abc")


def test_a_reader_sees_what_changed_since() -> None:
    recent = RecentChanges()
    assert recent.since(0) == []
    recent.add([A])
    recent.add([B, A])
    recent.add([])
    assert recent.since(0) == [A, B] and recent.since(1) == [B, A] and recent.since(3) == []
    recent.add([C])
    assert recent.since(3) == [C]


def test_what_is_remembered_is_bounded_and_never_in_part() -> None:
    recent = RecentChanges()
    recent.add([A])
    recent.add([("workload", str(number)) for number in range(MAX_REMEMBERED)])
    assert recent.since(0) is None and len(recent.since(1) or ()) == MAX_REMEMBERED
    recent.add([("workload", str(number)) for number in range(MAX_REMEMBERED + 1)])
    assert recent.since(2) is None and recent.since(3) == []
    for _ in range(MAX_BATCHES + 5):
        recent.add([A])
    assert recent.since(3) is None and recent.since(9) == [A]
