"""The benchmark's own programs in C, compiled when they are first needed."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.bench.figures import RunError

CLIENTS = Path(__file__).parent / "clients"
BUILT = Path(__file__).parents[2] / "build" / "bench"
SOURCE = CLIENTS / "bulk.c"
PROGRAM = BUILT / "bulk"
COMPILER = ("clang", "-O2", "-Wall", "-Wextra", "-Werror")
BPF_COMPILER = (
    *COMPILER, "-g", "-target", "bpf", "-mcpu=v3", "-idirafter", f"/usr/include/{platform.machine()}-linux-gnu", "-c",
)  # fmt: skip


def bulk_program(program: Path = PROGRAM) -> Path:
    """Path of the program, compiled if it is not there or older than its source. Raises RunError."""
    return compiled(SOURCE, program)


def compiled(source: Path, program: Path, compiler: Sequence[str] = COMPILER) -> Path:
    """... of any program."""
    if program.exists() and program.stat().st_mtime >= source.stat().st_mtime:
        return program
    program.parent.mkdir(parents=True, exist_ok=True)
    partial = program.with_suffix(".partial")
    done = subprocess.run(
        [*compiler, "-o", str(partial), str(source)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RunError(f"{source.name} does not compile: {done.stderr.strip()}")
    partial.replace(program)
    return program
