"""A benchmark that is killed cannot clean up; its guard does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.bench.sites import PREFIX

ROOT = Path(__file__).parents[3]
GONE_WITHIN_S = 20.0

BENCHMARK = """
import os, sys
from pathlib import Path
from tests.bench.guard import guarded
with guarded(os.getpid()):
    Path(sys.argv[1].format(pid=os.getpid())).mkdir()
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, None], ids=["killed", "terminated", "in order"])
def test_what_it_leaves_is_removed(how: signal.Signals | None) -> None:
    left = str(Path(tempfile.gettempdir(), f"{PREFIX}-{{pid}}-0"))
    with subprocess.Popen(
        [sys.executable, "-c", BENCHMARK, left], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as benchmark:
        assert benchmark.stdout is not None
        assert benchmark.stdout.readline() == b"ready\n"
        directory = Path(left.format(pid=benchmark.pid))
        assert directory.is_dir()
        if how is not None:
            os.kill(benchmark.pid, how)
    deadline = time.monotonic() + GONE_WITHIN_S
    while directory.exists():
        assert time.monotonic() < deadline, f"{directory} is still there"
        time.sleep(0.02)
