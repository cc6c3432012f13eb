"""What a guest holds in memory: the repository, its Python, and the programs that tests start.

A guest sees this file system over 9p, uncached: an import of the agent takes a minute there, and seconds from memory.
Python is compiled before: an emulated guest would spend most of its time on that.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Final

PROGRAMS: Final = (
    "bash", "sh", "env", "cat", "sleep", "true", "mount", "umount", "mkdir", "rm", "cp", "ps", "ip", "tc", "ss",
    "nsenter", "unshare", "sysctl", "modprobe", "kmod", "bpftool", "curl", "nginx", "redis-server", "redis-cli", "psql",
    "getent", "timeout", "nice", "date", "grep", "openssl", "busybox",
)  # fmt: skip
LEFT_OUT: Final = (
    ".git", "build", "*/site-packages/envoy*", "*/site-packages/mypy*", "*/site-packages/pip", "*mypyc*",
    "*/site-packages/grimp", "*/bin/ruff", "*/bin/uv*", "*/idlelib", "*/test", "*.a", "*.opt-?.pyc",
    ".mypy_cache", ".ruff_cache", ".hypothesis", ".import_linter_cache",
)  # fmt: skip
PACK_SECONDS: Final = 120
COMPILE_SECONDS: Final = 300
PACKAGES: Final = ("nodeagent", "control", "tests", "vm-lab")
SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LIBRARY: Final = re.compile(r"(?:=> )?(/\S+) \(0x")


class BaggageError(Exception):
    """Not to be packed; the text says what was said."""


def python_home() -> Path:
    """Python's own modules, or its whole prefix if it is not the system's."""
    prefix = Path(sys.base_prefix)
    return Path(sysconfig.get_path("stdlib")) if prefix == Path("/usr") else prefix


def libraries(ldd: str) -> set[str]:
    """The files that ``ldd`` names."""
    return set(_LIBRARY.findall(ldd))


def pack(repository: Path, target: Path) -> None:
    """A tar file of absolute paths (without the leading slash)."""
    files = _with_libraries(filter(None, (shutil.which(name) for name in PROGRAMS)))
    home = python_home()
    names = [*(name for name in files if not Path(name).is_relative_to(home)), str(home), str(repository)]
    strangers = [f"{sysconfig.get_path('stdlib')}/{name}" for name in ("site-packages", "dist-packages", "config-*")]
    excluded = [f"--exclude={pattern}" for pattern in (*LEFT_OUT, *strangers)]
    command = ["tar", "--create", "--file", str(target), "--absolute-names", "--transform=s,^/,,S", *excluded, *names]
    subprocess.run(command, check=True, timeout=PACK_SECONDS)


def precompile(repository: Path, tests: Iterable[str]) -> None:
    """Byte code beside every module, as Python and as pytest rewrites it. ``tests``: arguments of pytest."""
    collect = ["pytest", "--collect-only", "-qq", "-p", "no:cacheprovider", *tests]
    for words in (["compileall", "-q", *PACKAGES], collect):
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=repository, env={"PATH": SYSTEM_PATH, "PYTHONPATH": "vm-lab"},
            capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False,
        )  # fmt: skip
        if done.returncode:
            raise BaggageError(f"{' '.join(words)} failed: {(done.stdout + done.stderr).strip()[-800:]}")


def _with_libraries(programs: Iterable[str]) -> list[str]:
    found: set[str] = set()
    for program in {os.path.realpath(sys.executable), *programs}:
        found |= {program, os.path.realpath(program)}
        listed = subprocess.run(["ldd", program], capture_output=True, text=True, timeout=10, check=False).stdout
        for library in libraries(listed):
            found |= {library, os.path.realpath(library)}
    return sorted(found)
