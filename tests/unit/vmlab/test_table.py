from __future__ import annotations

import pytest
from vmlab import table
from vmlab.verdicts import Tally, Verdict

GOOD = Verdict(
    {"capture": Tally(3), "splice": Tally(2), "stories": Tally(5, 1)},
    {"on": True, "why_not": "", "self_test": {"items": {"bulk": "pass", "fionread": "fail: 0, not 4"}}},
)
BAD = Verdict(
    {"capture": Tally(0, 0, ("a", "b"))},
    {"on": False, "why_not": "a | b"},
    ("WARNING: at skmsg.c",),
    "ran out of time",
)
EMPTY = f"# Title\n\n{table.BEGIN}\n{table.END}\n\nThe rest | of it.\n"


def test_a_row_says_it_all() -> None:
    assert table.row("6.18", "6.18.15", GOOD, how="KVM, some, 3 min") == (
        "6.18", "6.18.15", "3 passed", "2 passed", "5 passed, 1 degraded", "1 of 2 pass",
        "`fionread`: fail: 0, not 4", "KVM, some, 3 min",
    )  # fmt: skip
    row = table.row("6.1", "6.1.0", BAD, how="emulated")
    assert "**2 failed**" in row[2]
    assert row[5:7] == ("not run", "splice: a | b")
    assert "ran out of time" in row[7] and "skmsg.c" in row[7]


def test_rows_replace_those_of_their_series_and_leave_the_others() -> None:
    good = {name: table.row(name, name, GOOD, how="x") for name in ("7.x", "6.18", "6.1")}
    document = table.put(EMPTY, good)
    assert list(table.parse(document)) == ["6.1", "6.18", "7.x"], "in order of series"
    assert table.parse(document) == good
    fresh = table.row("6.1", "6.1.0-57", BAD, how="y")
    again = table.put(document, {"6.1": fresh})
    assert table.parse(again) == {**good, "6.1": fresh}, "bars in a text survive"
    assert again.startswith("# Title\n") and again.endswith("\n\nThe rest | of it.\n")
    assert again.count(table.BEGIN) == again.count(table.END) == 1


def test_a_line_break_does_not_break_the_table() -> None:
    rendered = table.render([("a\nb", *("" for _ in table.HEADINGS[1:]))])
    assert "a b" in rendered and len(rendered.splitlines()) == 3


def test_a_document_without_a_place_is_refused() -> None:
    with pytest.raises(ValueError, match="no place"):
        table.put("# Title\n", {})
