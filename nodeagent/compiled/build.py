"""Makes the build: `python -m nodeagent.compiled.build`. Needs mypy, setuptools and a C compiler (clang; CC)."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from mypyc.build import mypycify
from setuptools import Distribution
from setuptools.command.build_ext import build_ext

from nodeagent.compiled.finder import HERE, MANIFEST, ROOT, Manifest, NotUsableError, digest, python, source_of, usable

GROUP: Final = "nodemesh"
"""The name of the extension module that holds the code of all others."""
WORK: Final = Path("build/compiled")

PACKAGES: Final = (
    "nodeagent.flows", "nodeagent.http2", "nodeagent.net", "nodeagent.policy", "nodeagent.relay", "nodeagent.telemetry",
    "nodeagent.tunnel",
)  # fmt: skip
"""What runs for each connection or each of its bytes: every module of these rooms, but those of ``INTERPRETED``."""
SINGLE: Final = ("nodeagent.capture.clients", "nodeagent.capture.origdst")
"""Modules of other rooms that do as well."""
INTERPRETED: Final = frozenset({
    "nodeagent.http2.errors",  # exceptions: mypyc gives all `except ... as error` of a function one variable
    "nodeagent.net.accepting",  # an OSError of its own, which mypyc cannot make
    "nodeagent.telemetry.samples",  # messages: the codec reads their annotations, and compiled ones say `tuple` only
    "nodeagent.telemetry.accesslog",  # compiled, its thread wrote lines twice; it works in batches
})  # fmt: skip
"""Not those. Whoever inherits from a class of a compiled module must be compiled too."""


def modules() -> tuple[str, ...]:
    """What is compiled, sorted."""
    found = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in PACKAGES
        for path in ROOT.joinpath(*package.split(".")).rglob("*.py")
        if path.stem != "__init__"
    }
    return tuple(sorted((found | set(SINGLE)) - INTERPRETED))


def current() -> bool:
    """Whether the build that is there is of these modules and sources."""
    try:
        return set(usable().sources) == set(modules())
    except NotUsableError:
        return False


def build() -> None:
    """Compile, and put the build where ``use`` finds it. SystemExit where mypyc objects, CompileError where the
    compiler does; the former build stays.
    """
    sources = {module: digest(module) for module in modules()}
    paths = [str(source_of(module).relative_to(Path.cwd())) for module in sources]
    shutil.rmtree(WORK, ignore_errors=True)
    extensions = mypycify(
        [*paths, "--config-file=pyproject.toml"], opt_level="2", debug_level="0", multi_file=True,
        target_dir=str(WORK / "c"), group_name=GROUP,
    )  # fmt: skip
    command = build_ext(Distribution({"name": GROUP, "ext_modules": extensions}))
    command.build_lib, command.build_temp, command.parallel = str(WORK / "lib"), str(WORK / "o"), os.cpu_count()
    command.ensure_finalized()
    command.run()
    made = {extension.name: Path(command.get_ext_fullpath(extension.name)) for extension in extensions}
    _put(Manifest(python=python(), sources=sources, files={name: f"{name}{python()}" for name in made}), made)


def _put(manifest: Manifest, made: dict[str, Path]) -> None:
    """Under its place there is a whole build, or none, at any time."""
    beside = Path(tempfile.mkdtemp(prefix=".built-", dir=HERE.parent))
    try:
        for name, path in made.items():
            shutil.copyfile(path, beside / manifest.files[name])
        (beside / MANIFEST).write_text(manifest.written())
        beside.chmod(0o755)
        shutil.rmtree(HERE, ignore_errors=True)
        beside.rename(HERE)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def main() -> int:
    """Nothing if there is nothing to do."""
    if not current():
        print(f"setup: compiling {len(modules())} modules of the worker", flush=True)
        build()
    return 0


if __name__ == "__main__":
    sys.exit(main())
