"""The rules of the house that a machine can check: a door plate for every room, small files, the contract a leaf.

Who may import whom is checked by import-linter (``[tool.importlinter]`` in pyproject.toml, run by ``make lint``).
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("nodeagent", "control", "vm-lab/vmlab")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 40
BANNED_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}

# Exceptions, with what they measure today: they may shrink, never grow, and an entry that is no longer needed fails.
FILE_RATCHET: dict[str, int] = {}
FUNCTION_RATCHET: dict[str, int] = {}

SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
ROOMS = sorted({path.parent for path in SOURCES})


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _functions(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def _code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from ``def`` to the end, without the docstring."""
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


@pytest.mark.parametrize("room", ROOMS, ids=_relative)
def test_every_room_has_a_door_plate_and_nothing_else(room: Path) -> None:
    init = room / "__init__.py"
    assert init.exists(), f"{_relative(room)} has no __init__.py that says what it is for"
    body = ast.parse(init.read_text()).body
    assert len(body) == 1 and ast.get_docstring(ast.parse(init.read_text())), (
        f"{_relative(init)} is to hold a docstring and nothing else"
    )


@pytest.mark.parametrize("path", SOURCES, ids=_relative)
def test_sizes_and_names(path: Path) -> None:
    name = _relative(path)
    text = path.read_text()
    assert path.stem not in BANNED_NAMES, f"{name}: say what it is about instead"
    allowed = FILE_RATCHET.get(name, MAX_FILE_LINES)
    assert len(text.splitlines()) <= allowed, f"{name} has more than {allowed} lines: split it by purpose"
    for function in _functions(ast.parse(text)):
        bound = FUNCTION_RATCHET.get(f"{name}:{function.name}", MAX_FUNCTION_LINES)
        lines = _code_lines(function)
        assert lines <= bound, f"{name}:{function.lineno} {function.name} has {lines} lines (bound {bound})"


def test_exceptions_are_still_needed_and_exact() -> None:
    for name, bound in FILE_RATCHET.items():
        lines = len((ROOT / name).read_text().splitlines())
        assert lines > MAX_FILE_LINES, f"{name} fits the budget now: take it off the list"
        assert lines == bound, f"{name} has {lines} lines: lower its entry"
    for key, bound in FUNCTION_RATCHET.items():
        name, _, function_name = key.partition(":")
        sizes = [_code_lines(f) for f in _functions(ast.parse((ROOT / name).read_text())) if f.name == function_name]
        assert sizes and max(sizes) > MAX_FUNCTION_LINES, f"{key} fits the budget now: take it off the list"
        assert max(sizes) == bound, f"{key} has {max(sizes)} lines: lower its entry"


def test_the_contract_loads_nothing_but_itself() -> None:
    modules = sorted(f"control.wire.{path.stem}" for path in (ROOT / "control/wire").glob("[!_]*.py"))
    probe = (
        "import sys; before = set(sys.modules)\n"
        + "".join(f"import {module}\n" for module in modules)
        + "print(*sorted(set(sys.modules) - before), sep='\\n')"
    )
    loaded = subprocess.run(
        [sys.executable, "-S", "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    strangers = [
        name
        for name in loaded
        if name.partition(".")[0] not in sys.stdlib_module_names
        and name not in ("control", "control.wire")
        and not name.startswith("control.wire.")
    ]
    assert not strangers, f"control.wire is to import the standard library only, but loaded {strangers}"


def test_the_contract_is_found_without_its_neighbours() -> None:
    """The probe above would pass on an empty list."""
    assert len(list((ROOT / "control/wire").glob("[!_]*.py"))) >= 5
