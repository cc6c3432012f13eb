"""Which modules a process gets: those of a build that fits, or the sources."""

from __future__ import annotations

import _json
import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nodeagent.compiled import finder
from nodeagent.compiled.finder import MANIFEST, Manifest, NotUsableError

SOURCE = "nodeagent.reasons"
PRODUCT = "plays_a_compiled._json"
"""An extension module is known by the last part of its name."""


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(
        python=finder.python(), sources={SOURCE: finder.digest(SOURCE)}, files={PRODUCT: Path(_json.__file__).name}
    )


@pytest.fixture
def build(tmp_path: Path, manifest: Manifest) -> Iterator[Path]:
    """A build of one module, which is the standard library's."""
    shutil.copy(_json.__file__, tmp_path)
    (tmp_path / MANIFEST).write_text(manifest.written())
    finders = list(sys.meta_path)
    package = type(sys)("plays_a_compiled")
    package.__path__ = []
    sys.modules[package.__name__] = package
    yield tmp_path
    sys.meta_path[:] = finders
    sys.modules.pop(PRODUCT, None)
    del sys.modules[package.__name__]


def why_not(directory: Path) -> str:
    with pytest.raises(NotUsableError) as refusal:
        finder.usable(directory)
    return str(refusal.value)


def test_modules_come_from_a_build_that_fits(build: Path) -> None:
    assert finder.use(build) == ""
    found = importlib.import_module(PRODUCT)
    assert found.__file__ == str(build / Path(_json.__file__).name)
    assert found.scanstring(chr(34) + "it works" + chr(34), 1) == ("it works", 10)
    assert importlib.import_module("nodeagent.reasons").__file__.endswith(".py"), "what is not in it is found as ever"


def test_without_a_build_the_sources_run(tmp_path: Path) -> None:
    assert finder.use(tmp_path) == "nothing is compiled; make compiled"
    assert not any(isinstance(each, finder.Finder) for each in sys.meta_path)


def test_a_build_of_older_sources_is_not_used(build: Path, manifest: Manifest) -> None:
    (build / MANIFEST).write_text(replace(manifest, sources={SOURCE: "0" * 64}).written())
    assert why_not(build) == "1 sources are newer than the build, nodeagent.reasons among them; make compiled"


def test_a_build_for_another_python_is_not_used(build: Path, manifest: Manifest) -> None:
    (build / MANIFEST).write_text(replace(manifest, python=".cpython-399.so").written())
    assert ".cpython-399.so" in why_not(build)


@pytest.mark.parametrize("found", ["", "{}", "[]", "no JSON", json.dumps({"python": 1, "sources": 2})])
def test_a_manifest_that_cannot_be_read_is_a_reason(build: Path, found: str) -> None:
    (build / MANIFEST).write_text(found)
    assert "the build cannot be read" in why_not(build)


def test_a_source_that_is_gone_is_a_reason(build: Path, manifest: Manifest) -> None:
    (build / MANIFEST).write_text(replace(manifest, sources={"nodeagent.gone": "0" * 64}).written())
    assert "make compiled" in why_not(build)


def test_a_build_that_this_host_cannot_load_is_not_used(build: Path) -> None:
    """A worker that ended for it would be started again and again."""
    (build / Path(_json.__file__).name).write_bytes(b"\x7fELF, cut short")
    assert finder.use(build).startswith("the build cannot be loaded: ")
    assert not any(isinstance(each, finder.Finder) for each in sys.meta_path)


def test_nothing_is_mixed_with_modules_that_were_imported_before(build: Path, manifest: Manifest) -> None:
    files = {**manifest.files, SOURCE: "whatever.so"}
    (build / MANIFEST).write_text(replace(manifest, files=files).written())
    assert SOURCE in sys.modules
    assert finder.use(build) == "nodeagent.reasons was imported before"
    assert not any(isinstance(each, finder.Finder) for each in sys.meta_path)
