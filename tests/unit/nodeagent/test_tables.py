from __future__ import annotations

import pytest

from nodeagent.tables import CUT, Columns, cell, fields, table


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert table(("NAME", "N"), [("a", 10), ("longer", 2)]) == "NAME    N\na       10\nlonger  2"
    assert table(("NAME", "N"), []) == "NAME  N"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), ("", "-"), (0, "0"), (False, "False"), ((), "-"), (["a", 1], "a,1"), ("x\n\x1b[2J\u202e", "x??[2J?")],
)
def test_cells(value: object, text: str) -> None:
    assert cell(value) == text


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("12345678", "12345678"),
        ("123456789", "1234567" + CUT),
        ("\u4e16\u754c\u4e16\u754c", "\u4e16\u754c\u4e16\u754c"),
        ("\u4e16\u754c\u4e16\u754c\u4e16", "\u4e16\u754c\u4e16" + CUT),
        ("e\u0301" * 8, "e\u0301" * 8),
        ("x" * 100_000, "x" * 7 + CUT),
    ],
)
def test_a_long_cell_is_cut_where_the_terminal_counts_so_many_columns(text: str, cut: str) -> None:
    assert cell(text, 8) == cut


def test_wide_characters_keep_the_alignment() -> None:
    assert table(("A", "B"), [("\u4e16", 1), ("ab", 2)]) == "A   B\n\u4e16  1\nab  2"


def test_a_stream_has_fixed_columns_and_a_long_cell_moves_the_rest() -> None:
    columns = Columns(("A", "B"), (3, 0), longest=6)
    assert [columns.heading(), columns.row(("x", 1)), columns.row(("abcdef", None))] == [
        "A    B",
        "x    1",
        "abcdef  -",
    ]
    with pytest.raises(ValueError, match="zip"):
        columns.row(("only one",))


def test_names_and_their_values() -> None:
    assert fields([("node", "a"), ("splice", "off")]) == "node:    a\nsplice:  off"
    assert fields([]) == ""
