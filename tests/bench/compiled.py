"""The benchmark's own program in C, compiled when it is first needed."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.bench.figures import RunError

SOURCE = Path(__file__).parent / "clients" / "bulk.c"
PROGRAM = Path(__file__).parents[2] / "build" / "bench" / "bulk"
COMPILER = ("clang", "-O2", "-Wall", "-Wextra", "-Werror")


def bulk_program(program: Path = PROGRAM) -> Path:
    """Path of the program, compiled if it is not there or older than its source. Raises RunError."""
    if program.exists() and program.stat().st_mtime >= SOURCE.stat().st_mtime:
        return program
    program.parent.mkdir(parents=True, exist_ok=True)
    partial = program.with_suffix(".partial")
    done = subprocess.run(
        [*COMPILER, "-o", str(partial), str(SOURCE)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RunError(f"{SOURCE.name} does not compile: {done.stderr.strip()}")
    partial.replace(program)
    return program
