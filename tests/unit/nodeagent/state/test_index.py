"""An index never loses one owner of a key with another."""

from __future__ import annotations

from nodeagent.state.index import Index


def test_only_answers_when_there_is_exactly_one() -> None:
    index: Index[str, str] = Index()
    assert index.only("k") is None and index.all("k") == ()
    index.add(["k", "l"], "a", "A")
    assert index.only("k") == "A"
    index.add(["k"], "b", "B")
    assert index.only("k") is None and index.all("k") == ("A", "B")
    index.remove(["k", "l", "never"], "a")
    assert index.only("k") == "B" and index.all("l") == ()
    assert len(index) == 1


def test_the_same_uid_replaces() -> None:
    index: Index[str, str] = Index()
    index.add(["k"], "a", "old")
    index.add(["k"], "a", "new")
    assert index.all("k") == ("new",)


def test_removing_a_stranger_removes_nobody() -> None:
    index: Index[str, str] = Index()
    index.add(["k"], "a", "A")
    index.remove(["k"], "b")
    assert index.only("k") == "A"
