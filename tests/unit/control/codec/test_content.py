"""Two contents have one digest if they are the same objects of the same bytes, however they came about."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from control.codec.content import BUCKETS, Content

keys = st.tuples(st.sampled_from(("workload", "policy")), st.text("ab\n", max_size=3))
puts = st.lists(st.tuples(keys, st.one_of(st.none(), st.binary(max_size=2))), max_size=30)


def of(objects: dict[tuple[str, str], bytes]) -> str:
    content = Content()
    for (kind, uid), value in objects.items():
        content.put(kind, uid, value)
    return content.digest()


@settings(deadline=None)
@given(puts, puts)
def test_it_tells_contents_apart_and_nothing_else(one: list, two: list) -> None:  # type: ignore[type-arg]
    ends: list[tuple[dict[tuple[str, str], bytes], str]] = []
    for story in (one, two):
        content, held = Content(), dict[tuple[str, str], bytes]()
        for (kind, uid), value in story:
            content.put(kind, uid, value)
            held.pop((kind, uid), None)
            if value is not None:
                held[kind, uid] = value
        ends.append((held, content.digest()))
        assert ends[-1][1] == of(dict(sorted(held.items())))
    assert (ends[0][0] == ends[1][0]) == (ends[0][1] == ends[1][1])


def test_a_change_costs_one_bucket() -> None:
    content = Content()
    for number in range(5 * BUCKETS):
        content.put("workload", f"w-{number}", b"{}")
    assert BUCKETS * 0.9 < sum(1 for _ in content.settle()) <= BUCKETS
    content.put("workload", "w-7", b"[]")
    assert sum(1 for _ in content.settle()) == 1
    assert sum(1 for _ in content.settle()) == 0


def test_a_uid_that_is_no_text_has_a_digest_too() -> None:
    assert of({("workload", "\ud800"): b"{}"}) != of({("workload", "\ud801"): b"{}"})
