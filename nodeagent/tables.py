"""Text tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

MAX_CELL_CHARACTERS: Final = 200


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Columns as wide as they need to be; what is not known is ``-``."""
    cells = [list(headings), *([cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def cell(value: Any) -> str:
    """One value as the text of a cell: printable, and of bounded length."""
    if isinstance(value, (list, tuple)):
        value = ",".join(str(item) for item in value)
    text = "-" if value is None or value == "" else str(value)
    # names come over the network: nothing of them may move the cursor or fake a line
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= MAX_CELL_CHARACTERS else text[: MAX_CELL_CHARACTERS - 1] + "…"
