"""Which network namespaces the processes of a cgroup live in: from ``cgroup.procs`` and ``/proc/PID/ns/net``."""

from __future__ import annotations

import os
from pathlib import Path

MAX_CGROUPS = 1024
"""Nested cgroups that one census of a workload looks into; a container that runs systemd has dozens."""
MAX_PROCESSES = 65536
"""Processes that one census of a workload looks at."""
_NO_DIRECTORIES = 2
"""Links of a cgroup's directory that has no other in it."""


def census(cgroup: Path) -> dict[int, int]:
    """Inode of each network namespace -> a process in it, for the processes of the cgroup and of those nested in it.

    A process counts with its main thread. What ends while we look is left out; nothing at all: nobody is in there.
    """
    found: dict[int, int] = {}
    queue, looked, counted = [str(cgroup)], 0, 0
    while queue and looked < MAX_CGROUPS:
        looked += 1
        directory = queue.pop()
        try:
            with open(f"{directory}/cgroup.procs", "rb") as stream:  # noqa: PTH123 - hundreds of these, four times a second
                pids = stream.read().split()
            if os.stat(directory).st_nlink > _NO_DIRECTORIES:  # noqa: PTH116
                with os.scandir(directory) as entries:
                    queue += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:  # gone, or a threaded cgroup, whose processes are listed at its root
            continue
        for pid in pids:
            counted += 1
            if counted > MAX_PROCESSES:
                return found
            try:
                found.setdefault(os.stat(f"/proc/{int(pid)}/ns/net").st_ino, int(pid))  # noqa: PTH116
            except OSError:
                continue
    return found
