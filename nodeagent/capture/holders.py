"""Whose a socket is, for sockets that no hook has seen: from the processes of a workload's cgroups, the descriptors
that they hold, and the cgroup that the kernel remembers of whoever made the socket.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nodeagent.capture.plan import User
from nodeagent.namespaces.sockets import TcpSocket

MAX_CGROUPS: Final = 4096
"""Cgroups of one workload that are walked."""
MAX_DESCRIPTORS: Final = 1 << 20
"""Descriptors of one workload, or of the agent, that are looked at."""
_SOCKET = re.compile(r"socket:\[([0-9]+)\]\Z")


@dataclass(slots=True)
class Holdings:
    """What a workload has."""

    processes: list[int] = field(default_factory=list)
    inodes: dict[int, int] = field(default_factory=dict)
    """Of its sockets, and a process that holds each."""
    cgroups: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Each cgroup that it may have processes in, and those above it up to the one that was enrolled."""


class Holders:
    """Looks at the cgroups of one workload. ``enrolled``: cgroup id or ``User.number`` -> uid, of all workloads of the
    node; ``directories``: those of this workload.
    """

    def __init__(self, uid: str, enrolled: Mapping[int, str], directories: Mapping[int, Path]) -> None:
        self._uid = uid
        self._enrolled = enrolled
        self._directories = directories
        self.found = Holdings()

    def look(self) -> Holdings:
        """Once. What ends meanwhile is left out. OSError if a descriptor table cannot be read for want of rights."""
        for directory in set(self._directories.values()):
            for pid in self._members(directory):
                self.found.processes.append(pid)
                for inode in socket_inodes(pid):
                    self.found.inodes[inode] = pid
        return self.found

    def owns(self, each: TcpSocket) -> bool:
        """Whether one of its processes holds it, or made it."""
        if each.inode in self.found.inodes:
            return True
        chain = self.found.cgroups.get(each.cgroup)
        return chain is not None and self._nearest(chain, each.uid) == self._uid

    def _nearest(self, chain: tuple[int, ...], user: int) -> str | None:
        """Of whom a process of this user is in the last of these cgroups: as the kernel decides at connect()."""
        for cgroup in reversed(chain):
            uid = self._enrolled.get(User(cgroup, user).number) or self._enrolled.get(cgroup)
            if uid is not None:
                return uid
        return None

    def _members(self, start: Path) -> Iterator[int]:
        queue: list[tuple[str, tuple[int, ...]]] = [(str(start), ())]
        looked = 0
        while queue and (looked := looked + 1) <= MAX_CGROUPS:
            directory, above = queue.pop()
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, ProcessLookupError):
                chain = (*above, Path(directory).stat().st_ino)
                self.found.cgroups[chain[-1]] = chain
                with os.scandir(directory) as entries:
                    queue += [(entry.path, chain) for entry in entries if entry.is_dir(follow_symlinks=False)]
                for pid in map(int, Path(directory, "cgroup.procs").read_text().split()):
                    if self._nearest(chain, _real_user(pid)) == self._uid:
                        yield pid


def socket_inodes(pid: int) -> set[int]:
    """Of the sockets that the process holds; nothing if it has ended. PermissionError if we may not look."""
    found: set[int] = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError), os.scandir(f"/proc/{pid}/fd") as entries:
        for count, entry in enumerate(entries):
            if count >= MAX_DESCRIPTORS:
                break
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if match := _SOCKET.match(os.readlink(entry.path)):  # noqa: PTH115 - a hundred thousand of these
                    found.add(int(match[1]))
    return found


def namespaces_of(pids: list[int]) -> dict[int, str]:
    """Inode -> path of each network namespace in which a thread of these processes is."""
    found: dict[int, str] = {}
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError), os.scandir(f"/proc/{pid}/task") as threads:
            for thread in threads:
                path = f"{thread.path}/ns/net"
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    found.setdefault(os.stat(path).st_ino, path)  # noqa: PTH116 - one for each thread of a program
    return found


def _real_user(pid: int) -> int:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Uid:")).split()[1])
    return -1
