"""What the figures were measured on and with, for the record."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.bench.cases import Settings
from tests.bench.systems.base import System


def describe(systems: Sequence[System], settings: Settings) -> dict[str, object]:
    """The `machine` object of bench.json."""
    return {
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "cpu_model": _cpu_model(),
        "memory_mib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20,
        "load_at_start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "seconds_per_run": settings.seconds,
        "idle_connections": settings.idle_connections,
        "soak_seconds": settings.soak_seconds,
        "versions": {
            **{system.name: system.version() for system in systems},
            "nginx": _first_line("nginx", "-v"),
            "wrk": _first_line("wrk", "-v"),
            "ab": _first_line("ab", "-V"),
            "iperf3": _first_line("iperf3", "--version"),
        },
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _first_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    return next((line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()), "unknown")
