"""Cleans up after a benchmark that was killed: `python -m tests.bench.guard PID` waits for it to end, then removes.

A pipe tells the end: its other end is the benchmark's alone. Started in a session of its own, so that what is aimed
at the benchmark (Ctrl-C, a closed terminal) does not reach it. After an orderly end it finds nothing.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from tests.bench.sites import sweep


@contextlib.contextmanager
def guarded(pid: int) -> Iterator[None]:
    """Whatever the process `pid`, which calls this, takes from the machine is given back however it ends."""
    command = [sys.executable, "-m", "tests.bench.guard", str(pid)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True):
        yield  # and at the end the pipe is closed and the guard waited for


def main(arguments: list[str]) -> int:
    (pid,) = map(int, arguments)
    sys.stdin.read()
    sweep(pid)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
