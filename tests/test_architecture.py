"""The rules of the house that a machine can check: a door plate for every room, small files, the contract a leaf.

Who may import whom is checked by import-linter (``[tool.importlinter]`` in pyproject.toml, run by ``make lint``).
"""

from __future__ import annotations

import ast
import copy
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

from tests.support import rooms

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


# --- who imports whom ------------------------------------------------------------------------------------------------

UPWARD = [
    ("nodeagent.splice.figures", "nodeagent.flows.balance"),
    ("nodeagent.state.index", "nodeagent.dns.remembered"),
    ("nodeagent.identity.keys", "nodeagent.dns.messages"),
    ("nodeagent.lifecycle", "nodeagent.manager.packing"),
    ("nodeagent.capture.ports", "nodeagent.doctor.finding"),
    ("nodeagent.channel", "nodeagent.flows.settings"),
    ("nodeagent.splice.figures", "nodeagent.manager.packing"),
    ("nodeagent.http2.frames", "nodeagent.net.sockets"),
    ("nodeagent.tunnel.pool", "nodeagent.dns.decide"),
    ("nodeagent.flows.flow", "nodeagent.relay.outbound"),
    ("nodeagent.manager.hub", "nodeagent.report.facts"),
    ("nodeagent.main", "nodeagent.worker.worker"),
]


def _broken(graph: grimp.ImportGraph) -> int:
    order = [grimp.Layer(*layer, independent=True) for layer in rooms.layers()]
    return len(graph.find_illegal_dependencies_for_layers(layers=order, containers={rooms.AGENT}))


@pytest.mark.parametrize(("importer", "imported"), UPWARD)
def test_the_layers_contract_catches_an_import_upwards_or_sideways(importer: str, imported: str) -> None:
    graph = copy.deepcopy(rooms.graph())
    assert {importer, imported} <= graph.modules, "the planted import names a module that is not there"
    assert _broken(graph) == 0
    graph.add_import(importer=importer, imported=imported)
    assert _broken(graph) == 1


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports under TYPE_CHECKING count: who needs whom to be understood is a question for readers, not for Python."""
    graph = rooms.graph()
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    graphlib.TopologicalSorter(imports).prepare()  # CycleError names the circle


AGENT_ROOMS = sorted(path.name for path in (ROOT / "nodeagent").iterdir() if (path / "__init__.py").exists())


@pytest.mark.parametrize("room", AGENT_ROOMS)
def test_a_docstring_names_the_rooms_that_import_it(room: str) -> None:
    found = re.search(r"^Imported by (.*?)\.\Z", rooms.plate(room), re.DOTALL | re.MULTILINE)
    assert found, f"the docstring of nodeagent.{room} is to end with 'Imported by ...'"
    named = set(re.findall(r"``(\w+)``", found.group(1)))
    assert named == rooms.importers().get(room, set()), f"nodeagent.{room}: correct its 'Imported by'"


def _defined_in(room: Path) -> set[str]:
    names = {path.stem for path in room.rglob("*.py")} | {path.parent.name for path in room.rglob("__init__.py")}
    for path in room.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                names.add(node.name)
            elif isinstance(node, ast.Assign):
                names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


@pytest.mark.parametrize("room", ROOMS, ids=_relative)
def test_the_nouns_of_a_docstring_exist(room: Path) -> None:
    text = ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or ""
    nouns = re.search(r"^Nouns: (.*?)(?:\n\n|\Z|^Imported by)", text, re.DOTALL | re.MULTILINE)
    if nouns is None:
        return
    outside_brackets = re.sub(r"\([^()]*(?:\([^()]*\)[^()]*)*\)", "", nouns.group(1))
    missing = set(re.findall(r"``(\w+)``", outside_brackets)) - _defined_in(room)
    assert not missing, f"{_relative(room)} names nouns that it does not have: {sorted(missing)}"


@pytest.mark.parametrize("package", ["nodeagent", "control"])
def test_class_names_are_unique(package: str) -> None:
    places: dict[str, list[str]] = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(_relative(path))
    twice = {name: found for name, found in places.items() if len(found) > 1}
    assert not twice, f"class names that mean several things: {twice}"
