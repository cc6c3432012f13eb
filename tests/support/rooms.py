"""The rooms of the agent as the code has them: layers from pyproject.toml, importers from the import graph, purposes
from the package docstrings. ``python -m tests.support.rooms`` writes them into ARCHITECTURE.md (``make rooms``).
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import grimp

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "ARCHITECTURE.md"
BEGIN, END = "<!-- rooms:begin -->", "<!-- rooms:end -->"
AGENT = "nodeagent"


@cache
def graph() -> grimp.ImportGraph:
    """Every import of the two packages, those under TYPE_CHECKING too."""
    return grimp.build_graph("nodeagent", "control", cache_dir=None)


def contract(name: str) -> dict[str, Any]:
    """The import contract of this name."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return next(found for found in settings["contracts"] if found["name"] == name)


def layers() -> list[list[str]]:
    """The layers of the agent, highest first; each a list of rooms that do not import each other."""
    return [[room.strip() for room in layer.split("|")] for layer in contract("layers of the agent")["layers"]]


def importers() -> dict[str, set[str]]:
    """Room -> the rooms that import it directly."""
    found: dict[str, set[str]] = defaultdict(set)
    for module in graph().modules:
        for imported in graph().find_modules_directly_imported_by(module):
            if module.startswith(f"{AGENT}.") and imported.startswith(f"{AGENT}."):
                source, target = module.split(".")[1], imported.split(".")[1]
                if source != target:
                    found[target].add(source)
    return dict(found)


def plate(room: str) -> str:
    """The docstring of a room, or of a module that stands for one."""
    path = ROOT / AGENT / room
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.get_docstring(ast.parse(source.read_text())) or ""


def purpose(room: str) -> str:
    """The first sentence of a room's docstring."""
    text = " ".join(plate(room).split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s", text)[0].replace("``", "`")


def drawing() -> str:
    """The layers as text, highest first."""
    lines = ["   ".join(room for room in layer if room != "__main__") for layer in layers()]
    lines = [line for line in lines if line]
    width = max(map(len, lines))
    bar = "+" + "-" * (width + 2) + "+"
    return "\n".join([bar, *(f"| {line.center(width)} |\n{bar}" for line in lines)])


def section() -> str:
    """What stands between the markers in ARCHITECTURE.md."""
    rows = [
        f"| `{room}` | {purpose(room)} |"
        for layer in layers()
        for room in layer
        if (ROOT / AGENT / room).is_dir()  # what a single module is for, its docstring says
    ]
    rule = "A room imports only rooms of lower lines, never one of its own line."
    table = ["| room | purpose |", "|---|---|", *rows]
    return "\n".join([BEGIN, "", rule, "", "```text", drawing(), "```", "", *table, "", END])


def written(text: str) -> str:
    """The document with today's section in it."""
    begin, end = text.index(BEGIN), text.index(END) + len(END)
    return text[:begin] + section() + text[end:]


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text()))
