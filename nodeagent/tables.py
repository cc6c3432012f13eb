"""Text tables for people. All commands of the agent align columns and cut cells this way.

A table is plain text, the same on a terminal and in a pipe: no colour, no lines, nothing but what people and ``awk``
can read. Cells hold names that other hosts chose, so nothing in a cell moves the cursor or fakes a line.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, Final

MAX_CELL_CHARACTERS: Final = 200
"""Columns of the terminal that a cell takes at most; the rest of its text is cut, and ends in ``CUT``."""
CUT: Final = "…"
UNKNOWN: Final = "-"
"""What stands for None and the empty text."""
_GAP: Final = "  "


class Columns:
    """Columns of fixed widths, for tables whose rows are not known in advance. A longer cell moves its line's rest."""

    def __init__(self, headings: Sequence[str], widths: Sequence[int], longest: int = MAX_CELL_CHARACTERS) -> None:
        """Widths are in columns of the terminal; ``longest`` is where a cell is cut."""
        self._headings = tuple(headings)
        self._widths = tuple(widths)
        self._longest = longest

    def heading(self) -> str:
        """The line above all rows."""
        return _line(self._headings, self._widths)

    def row(self, values: Sequence[Any]) -> str:
        """The line of a row. ValueError if it has not as many values as there are columns."""
        return _line([cell(value, self._longest) for value in values], self._widths)


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]], longest: int = MAX_CELL_CHARACTERS) -> str:
    """A heading and a line for each row; columns as wide as their widest cell."""
    cells = [list(headings), *([cell(value, longest) for value in row] for row in rows)]
    widths = [max(_width(row[column]) for row in cells) for column in range(len(headings))]
    return "\n".join(_line(row, widths) for row in cells)


def fields(pairs: Iterable[tuple[str, Any]]) -> str:
    """A line for each name and value; the values are aligned, and are not cut: they are sentences."""
    found = [(f"{name}:", value) for name, value in pairs]
    width = max((len(name) for name, _ in found), default=0)
    return "\n".join(f"{name.ljust(width)}{_GAP}{value}" for name, value in found)


def cell(value: Any, longest: int = MAX_CELL_CHARACTERS) -> str:
    """One value as the text of a cell: printable, and at most ``longest`` columns wide."""
    if isinstance(value, (list, tuple)):
        value = ",".join(str(item) for item in value)
    text = UNKNOWN if value is None or value == "" else str(value)
    text = "".join(character if character.isprintable() else "?" for character in text)
    if _width(text) <= longest:
        return text
    while _width(text) > longest - len(CUT):
        # a character is at most two columns wide: half the excess in characters never cuts too much
        text = text[: -max(1, (_width(text) - longest + len(CUT)) // 2)]
    return text + CUT


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [text + " " * (width - _width(text)) for text, width in zip(cells, widths, strict=True)]
    return _GAP.join(padded).rstrip()


def _width(text: str) -> int:
    """Columns of a terminal: East Asian characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )
