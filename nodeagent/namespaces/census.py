"""Which network namespaces the processes of a cgroup live in: from ``cgroup.procs`` and ``/proc/PID/ns/net``.

pyroute2's ``ns_pids`` looks at every process of the host, and knows only namespaces with a name in /run/netns.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

MAX_CGROUPS = 1024
"""Nested cgroups that one census of a workload looks into; a container that runs systemd has dozens."""
MAX_PROCESSES = 65536
"""Processes, or threads, that one census of a workload looks at."""
_NO_DIRECTORIES = 2
"""Links of a cgroup's directory that has no other in it."""


def census(cgroup: Path, *, threads: bool = False) -> dict[int, int]:
    """Inode of each network namespace -> a process in it, for the processes of the cgroup and of those nested in it.

    A process is looked at by its main thread; with ``threads``, every thread is, and the values are threads. Processes
    that end meanwhile are left out. Empty: no process is in the cgroup.
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
            for task in _threads(int(pid)) if threads else (int(pid),):
                counted += 1
                if counted > MAX_PROCESSES:
                    return found
                with contextlib.suppress(OSError):
                    found.setdefault(os.stat(f"/proc/{task}/ns/net").st_ino, task)  # noqa: PTH116
    return found


def _threads(pid: int) -> list[int]:
    """The main thread first."""
    try:
        return sorted((int(name) for name in os.listdir(f"/proc/{pid}/task")), key=lambda task: task != pid)  # noqa: PTH208
    except OSError:
        return []
