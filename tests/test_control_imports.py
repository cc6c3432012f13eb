"""The import contracts of control catch what they are there for: each forbidden import is planted in turn."""

from __future__ import annotations

import ast
import copy
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import grimp
import pytest
from importlinter import configuration
from importlinter.contracts.forbidden import ForbiddenContract
from importlinter.contracts.layers import LayersContract
from importlinter.contracts.protected import ProtectedContract

ROOT = Path(__file__).parent.parent
SETTINGS: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
CLASSES = {"forbidden": ForbiddenContract, "layers": LayersContract, "protected": ProtectedContract}
ROOMS = sorted(path.stem for path in (ROOT / "control").iterdir() if not path.name.startswith("_"))

configuration.configure()

MAY_IMPORT = {
    "api": {"codec", "ca", "kinds", "registry", "watch", "wire", "fastapi"},
    "ca": {"codec", "kinds", "wire"},
    "cli": {"codec", "kinds", "wire"},
    "codec": {"wire"},
    "config": {"codec", "ca", "kinds", "registry", "watch", "wire"},
    "kinds": {"codec", "wire"},
    "main": {*ROOMS} - {"main", "cli"},
    "registry": {"codec", "kinds", "store", "wire"},
    "server": {*ROOMS} - {"main", "server", "cli"} | {"fastapi"},
    "store": {"sqlite3"},
    "watch": {"codec", "ca", "kinds", "registry", "store", "wire"},
    "wire": set[str](),
}
"""Room -> what the contracts let it import. Every other import of a room, of fastapi or of sqlite3 is planted."""
PLANTED = [
    (importer, imported)
    for importer in ROOMS
    for imported in (*ROOMS, "fastapi", "sqlite3", "nodeagent")
    if imported != importer and imported not in MAY_IMPORT[importer]
]


@cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("nodeagent", "control", include_external_packages=True, cache_dir=None)


def broken(planted: grimp.ImportGraph) -> list[str]:
    """The names of the contracts that these imports break."""
    found = []
    for written in SETTINGS["contracts"]:
        options = {key: str(value) if isinstance(value, bool) else value for key, value in written.items()}
        contract = CLASSES[options["type"]](options["name"], SETTINGS, options)
        if not contract.check(copy.deepcopy(planted), verbose=False).kept:
            found.append(options["name"])
    return found


def test_without_a_planted_import_every_contract_is_kept() -> None:
    assert broken(graph()) == []


def test_every_room_is_listed_above() -> None:
    assert set(MAY_IMPORT) == set(ROOMS)


@pytest.mark.parametrize(("importer", "imported"), PLANTED, ids=[f"{a}-{b}" for a, b in PLANTED])
def test_a_planted_import_is_caught(importer: str, imported: str) -> None:
    planted = copy.deepcopy(graph())
    target = f"control.{imported}" if imported in ROOMS else imported
    assert target in planted.modules, "the planted import names a module that is not there"
    planted.add_import(importer=f"control.{importer}", imported=target)
    assert broken(planted)


def test_the_agent_is_kept_from_every_room_but_the_wire_and_its_codec() -> None:
    (contract,) = [c for c in SETTINGS["contracts"] if c["name"] == "the agent knows of control only the wire"]
    assert set(contract["forbidden_modules"]) == {f"control.{room}" for room in ROOMS if room not in ("codec", "wire")}


def test_what_kinds_are_made_of_names_no_kind() -> None:
    for path in sorted((ROOT / "control/kinds/base").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            outside = [m for m in modules if m.startswith("control.kinds") and not m.startswith("control.kinds.base")]
            assert not outside, f"{path.name} imports {outside}: a kind is named in its own file only"
