"""An index never loses one owner of a key with another, and a copy leaves what it was made of alone."""

from __future__ import annotations

from nodeagent.state.index import Index


def test_only_answers_when_there_is_exactly_one() -> None:
    index: Index[str] = Index()
    assert index.only("k") is None and index.all("k") == ()
    index.replace("a", [], ["k", "l"])
    assert index.only("k") == "a"
    index.replace("b", [], ["k"])
    assert index.only("k") is None and index.all("k") == ("a", "b")
    index.replace("a", ["k", "l", "never"], [])
    assert index.only("k") == "b" and index.all("l") == ()
    assert len(index) == 1


def test_a_key_that_is_kept_keeps_its_place_among_the_owners() -> None:
    index: Index[str] = Index()
    index.replace("a", [], ["k"])
    index.replace("b", [], ["k"])
    index.replace("a", ["k"], ["k", "l"])
    assert index.all("k") == ("a", "b") and index.only("l") == "a"


def test_removing_a_stranger_removes_nobody() -> None:
    index: Index[str] = Index()
    index.replace("a", [], ["k"])
    index.replace("b", ["k"], [])
    assert index.only("k") == "a"


def test_a_copy_changes_without_a_trace_in_the_original() -> None:
    index: Index[str] = Index()
    for uid in "abc":
        index.replace(uid, [], ["shared", uid])
    copy = index.copy()
    copy.replace("a", ["shared", "a"], ["new"])
    copy.replace("d", [], ["shared", "b"])
    copy.replace("e", [], ["b"])
    assert index.all("shared") == ("a", "b", "c") and index.only("a") == "a" and index.all("b") == ("b",)
    assert copy.all("shared") == ("b", "c", "d") and copy.all("b") == ("b", "d", "e") and copy.only("a") is None
    copy.settle()
    copy.replace("c", ["shared"], [])
    assert copy.all("shared") == ("b", "d") and index.all("shared") == ("a", "b", "c")
