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

from nodeagent.compiled.finder import HERE, MANIFEST, Manifest, NotUsableError, digest, python, source_of, usable

GROUP: Final = "nodemesh"
"""The name of the extension module that holds the code of all others."""
WORK: Final = Path("build/compiled")

MODULES: Final = (
    "nodeagent.capture.clients",
    "nodeagent.capture.origdst",
    "nodeagent.policy.connection",
    "nodeagent.policy.evaluate",
    "nodeagent.policy.authorizer",
    "nodeagent.flows.balance",
    "nodeagent.relay.decide",
    "nodeagent.flows.app",
    "nodeagent.flows.reach.external",
    "nodeagent.flows.reach.local",
    "nodeagent.flows.reach.remote",
    "nodeagent.flows.flow",
    "nodeagent.relay.inbound",
    "nodeagent.relay.outbound",
    "nodeagent.relay.plaintext",
    "nodeagent.net.poller",
    "nodeagent.tunnel.pool",
    "nodeagent.net.sockets",
    "nodeagent.flows.streams",
    "nodeagent.net.transport",
    "nodeagent.tunnel.end",
    "nodeagent.http2.blocks",
    "nodeagent.http2.connection",
    "nodeagent.http2.control",
    "nodeagent.http2.frames",
    "nodeagent.http2.headers",
    "nodeagent.http2.limits",
    "nodeagent.http2.output",
    "nodeagent.tunnel.request",
    "nodeagent.http2.stream",
    "nodeagent.http2.table",
    "nodeagent.tunnel.tls",
    "nodeagent.http2.windows",
    "nodeagent.flows.tracker",
    "nodeagent.telemetry.aggregate",
    "nodeagent.telemetry.flow",
    "nodeagent.telemetry.labels",
    "nodeagent.telemetry.metrics",
)
"""What runs for each connection or each of its bytes. Whoever inherits from a class of these is one of them. Not among
them: exceptions (mypyc takes the names of all `except ... as error` of a function for one variable of one type)."""


def current() -> bool:
    """Whether the build that is there is of these modules and sources."""
    try:
        return set(usable().sources) == set(MODULES)
    except NotUsableError:
        return False


def build() -> None:
    """Compile, and put the build where ``use`` finds it. SystemExit where mypyc objects, CompileError where the
    compiler does; the former build stays.
    """
    sources = {module: digest(module) for module in MODULES}
    paths = [str(source_of(module).relative_to(Path.cwd())) for module in MODULES]
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
        print(f"setup: compiling {len(MODULES)} modules of the worker", flush=True)
        build()
    return 0


if __name__ == "__main__":
    sys.exit(main())
