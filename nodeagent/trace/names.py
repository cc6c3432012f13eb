"""Cgroup ids, which is what the kernel says, to workloads and paths, which is what people know."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from nodeagent.trace.events import TraceEvent

MAX_CGROUPS: Final = 65536
"""Cgroups of one host that are looked at; the kernel's filter holds as many."""


class NoWorkloadError(LookupError):
    """No workload, or more than one, is meant; the message says what there is."""


def scan(mount: Path) -> dict[int, str]:
    """Every cgroup's path below the mount (``/`` for the mount itself) by its id; MAX_CGROUPS at most."""
    found = {mount.stat().st_ino: "/"}
    queue = [(str(mount), "")]
    while queue and len(found) < MAX_CGROUPS:
        directory, path = queue.pop()
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        found[entry.inode()] = f"{path}/{entry.name}"
                        queue.append((entry.path, f"{path}/{entry.name}"))
        except OSError:  # it went away meanwhile
            continue
    return found


@dataclass(slots=True)
class WorkloadNames:
    """Looks cgroups up anew when it meets one that it does not know: units and containers start meanwhile."""

    scan: Callable[[], Mapping[int, str]]
    enrolled: Mapping[int, str] = field(default_factory=dict)
    """Cgroup id to ``namespace/name``; the cgroups below one inherit."""
    _paths: dict[int, str] = field(default_factory=dict)
    _by_path: dict[str, str] = field(default_factory=dict)
    _unknown: set[int] = field(default_factory=set)

    def refresh(self, enrolled: Mapping[int, str]) -> None:
        """What the agent says now, and the cgroups that there are now."""
        self.enrolled = enrolled
        self._unknown.clear()
        self._look()

    def _look(self) -> None:
        """Paths of cgroups that are gone are kept: their sockets may outlive them. Ids are never used again."""
        found = self.scan()
        if len(self._paths) > MAX_CGROUPS:
            self._paths.clear()
        self._paths.update(found)
        self._by_path = {self._paths[cgroup]: name for cgroup, name in self.enrolled.items() if cgroup in self._paths}

    def path(self, cgroup: int | None) -> str | None:
        """The cgroup's path; its number where it is gone."""
        if cgroup is None:
            return None
        if cgroup not in self._paths and cgroup not in self._unknown:
            self._look()
            if cgroup not in self._paths and len(self._unknown) < MAX_CGROUPS:
                self._unknown.add(cgroup)
        return self._paths.get(cgroup, f"cgroup:{cgroup}")

    def workload(self, cgroup: int | None) -> str | None:
        """The workload that has enrolled this cgroup or the nearest one above it."""
        if cgroup is None:
            return None
        if cgroup in self.enrolled:
            return self.enrolled[cgroup]
        path = self.path(cgroup) or ""
        while path.startswith("/") and path != "/":
            path = path.rpartition("/")[0] or "/"
            if path in self._by_path:
                return self._by_path[path]
        return None

    def cgroups_of(self, workload: str) -> list[int]:
        """Every cgroup in which processes of the workload may be."""
        return sorted({cgroup for cgroup in (*self._paths, *self.enrolled) if self.workload(cgroup) == workload})

    def name(self, event: TraceEvent) -> TraceEvent:
        """The event with names."""
        workload = self.workload(event.client_cgroup) or self.workload(event.cgroup) or event.workload
        return replace(event, workload=workload, cgroup_path=self.path(event.cgroup))


def enrolled_cgroups(document: Iterable[Mapping[str, Any]]) -> dict[int, str]:
    """Cgroup id to ``namespace/name``, from what the agent answers about its workloads."""
    return {int(cgroup): f"{item['namespace']}/{item['name']}" for item in document for cgroup in item["cgroups"]}


def choose(wanted: str, document: Sequence[Mapping[str, Any]]) -> str:
    """``name`` or ``namespace/name`` to the one workload of this node that is meant. NoWorkloadError."""
    known = sorted(f"{item['namespace']}/{item['name']}" for item in document)
    found = [name for name in known if wanted in (name, name.partition("/")[2])]
    if len(found) == 1:
        return found[0]
    if found:
        raise NoWorkloadError(f"workload {wanted!r} may be {' or '.join(found)}: write namespace/name")
    there = ", ".join(known) or "none"
    raise NoWorkloadError(
        f"no workload {wanted!r} is placed on this node (there are: {there}); see 'nodeagent workloads'"
    )
