"""The output of meshctl: the one printer of tables, and JSON and YAML."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click
import yaml

GAP = "   "


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns aligned with blanks, for people and ``awk``; the header is bold on a terminal."""
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for number, line in enumerate(lines):
        text = GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        click.echo(click.style(text, bold=True) if number == 0 else text)


def write(value: Any, output: str) -> None:
    """Print one value as ``json`` or ``yaml``."""
    if output == "json":
        write_json(value)
    else:
        write_yaml([value])


def write_json(value: Any) -> None:
    """Print indented JSON, keys in their order."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def write_yaml(values: Sequence[Any]) -> None:
    """Print each value as a YAML document."""
    click.echo(yaml.safe_dump_all(values, sort_keys=False, allow_unicode=True, default_flow_style=False), nl=False)


def age(seconds: float) -> str:
    """``42s``, ``5m``, ``3h`` or ``9d``."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"
