"""Log lines of each source: so many a second, then their sum, and none is lost from the sums."""

from __future__ import annotations

import io
import logging
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from nodeagent.limits.lines import MAX_KINDS, MAX_SOURCES, OTHERS, Lines
from nodeagent.limits.records import LINES_A_SECOND, SOURCE, RecordLimit


def test_a_source_has_so_many_lines_a_second_and_then_a_sum() -> None:
    lines = Lines(3)
    assert [lines.allow("a", "denied", 0.1 * n) for n in range(5)] == [True] * 3 + [False] * 2
    assert lines.allow("b", "denied", 0.5), "another source has its own"
    assert lines.sums(0.9) == []
    (found,) = lines.sums(1.0)
    assert (found.source, found.count, found.described()) == ("a", 2, "denied:2")
    assert lines.sums(2.0) == []
    assert lines.allow("a", "denied", 2.0)


def test_sources_and_kinds_are_bounded_and_those_beyond_share() -> None:
    lines = Lines(1)
    assert all(lines.allow(f"source {n}", "x", 0.0) for n in range(MAX_SOURCES))
    assert [lines.allow(f"further {n}", "x", 0.0) for n in range(5)] == [True] + [False] * 4
    for n in range(3 * MAX_KINDS):
        lines.allow("source 0", f"kind {n}", 0.0)
    sums = {found.source: found for found in lines.sums(1.0)}
    assert sums[OTHERS].count == 4
    assert sums["source 0"].count == 3 * MAX_KINDS and len(sums["source 0"].kinds) == MAX_KINDS + 1


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 0.4)), max_size=300))
def test_every_line_is_written_or_in_a_sum(calls: list[tuple[str, float]]) -> None:
    lines, now = Lines(2, sources=3), 0.0
    written, summed, asked = 0, 0, Counter[str]()
    for source, later in calls:
        now += later
        asked[source] += 1
        written += lines.allow(source, "x", now)
        summed += sum(found.count for found in lines.sums(now))
    summed += sum(found.count for found in lines.sums(now, last=True))
    assert written + summed == asked.total()
    assert not lines.owing


def test_the_process_log_is_bounded_for_each_text_and_source() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    now = [0.0]
    limit = RecordLimit(handler, lambda: now[0])
    handler.addFilter(limit)
    log = logging.Logger("test")
    log.addHandler(handler)
    for number in range(50):
        log.warning("peer %s did %d", "p", number, extra={SOURCE: "p"})
    log.warning("peer %s did %d", "q", 1, extra={SOURCE: "q"})
    log.warning("something else")
    assert len(stream.getvalue().splitlines()) == LINES_A_SECOND + 2
    now[0] = 1.0
    limit.tell()
    last = stream.getvalue().splitlines()[-1]
    assert "40 further lines" in last and "peer %s did %d" in last
