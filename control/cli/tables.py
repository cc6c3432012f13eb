"""Output: plain aligned tables, JSON, YAML. Colours only on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, TextIO

import yaml
from rich.console import Console
from rich.text import Text

GAP = 3


def table(header: Sequence[str], rows: Sequence[Sequence[str]], out: TextIO | None = None) -> None:
    """Columns aligned with blanks, like every other such tool, so that ``awk`` and people can read it."""
    stream = out or sys.stdout
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    console = Console(file=stream, highlight=False, soft_wrap=True)
    for number, row in enumerate((header, *rows)):
        line = (" " * GAP).join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        # Text, not markup: names may hold brackets.
        console.print(Text(line, style="bold" if number == 0 else ""))


def write(value: Any, output: str) -> None:
    """For programs: ``json`` or ``yaml``."""
    if output == "json":
        write_json(value)
    else:
        write_yaml([value])


def write_json(value: Any) -> None:
    """Indented, keys as they came."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def write_yaml(values: Sequence[Any]) -> None:
    """One document each."""
    print(yaml.safe_dump_all(values, sort_keys=False, allow_unicode=True, default_flow_style=False), end="")


def age(seconds: float) -> str:
    """``42s``, ``5m``, ``3h``, ``9d``."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"
