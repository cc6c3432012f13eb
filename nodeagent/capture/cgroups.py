"""Selectors to cgroups: the kernel's word for who a process is."""

from __future__ import annotations

import os
import re
from pathlib import Path

from control.wire.discovery import Selectors
from nodeagent.capture.pods import pod_cgroups
from nodeagent.containers.facts import Container, StateError
from nodeagent.containers.node import Containers
from nodeagent.loader.abi import MAX_DEPTH

MAX_SLICES = 4096
"""Slices that a search for a unit looks into. A host has dozens."""
_OCTAL = re.compile(r"\\([0-7]{3})")


class CgroupError(Exception):
    """A selector or the cgroup tree cannot be used; the message says why and what to do."""


def cgroup2_mount(mounts: str) -> Path:
    """The first cgroup v2 mount in the text of ``/proc/self/mounts`` (on hybrid hosts it is not ``/sys/fs/cgroup``)."""
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) > 2 and fields[2] == "cgroup2":
            return Path(_OCTAL.sub(lambda match: chr(int(match.group(1), 8)), fields[1]))
    raise CgroupError("no cgroup v2 file system is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup/unified")


def own_cgroup(membership: str) -> str:
    """The cgroup v2 path in the text of ``/proc/self/cgroup``, as seen from the mount point."""
    for line in membership.splitlines():
        if line.startswith("0::"):
            return line[3:]
    return "/"


def own_cgroup_ids() -> tuple[int, ...]:
    """``cgroup_ids_of`` this process."""
    return cgroup_ids_of("self")


def cgroup_ids_of(pid: int | str) -> tuple[int, ...]:
    """The ids of a process's cgroup and of all above it, up to the mount, the nearest first: the first of them that is
    enrolled says whose the process is.
    """
    mount = cgroup2_mount(Path("/proc/self/mounts").read_text())
    own = mount / own_cgroup(Path(f"/proc/{pid}/cgroup").read_text()).lstrip("/")
    above = (path for path in (own, *own.parents) if path.is_relative_to(mount))
    return tuple(found for path in above if (found := cgroup_id(path)) is not None)


class CgroupTree:
    """The part of the cgroup tree that an agent looks after: everything below ``root``."""

    def __init__(self, root: Path | None = None, containers: Containers | None = None) -> None:
        """``containers`` None: selectors of containers find nothing."""
        self._containers = containers
        self._looked = False
        self.looked_in: set[Path] = set()
        """Where ``resolve`` looked since ``look_again``: when one of these changes, it may find something else."""
        self._mount = cgroup2_mount(Path("/proc/self/mounts").read_text())
        self.root = (root or self._mount).resolve()
        if not (self.root / "cgroup.procs").exists():
            raise CgroupError(f"{self.root} is not a directory of the cgroup v2 file system; set cgroup_root")

    def resolve(self, selectors: Selectors) -> list[Path]:
        """Every cgroup that the selectors name now; none is ordinary (the unit is stopped). CgroupError if they
        cannot be obeyed.
        """
        if selectors.cgroup_path is not None:
            found = [self.root / _relative(selectors.cgroup_path)]
            self.looked_in.add(_nearest(found[0].parent))
        elif selectors.systemd_unit is not None:
            found = self._units(selectors.systemd_unit)
        elif selectors.pod_uid is not None:
            found = pod_cgroups(self.root, selectors.pod_uid, self.looked_in)
        elif selectors.container_id is not None or selectors.container_labels:
            found = self._of_containers(selectors)
        else:
            raise CgroupError("no selector is set that this agent knows; name a systemdUnit or a cgroupPath")
        usable = [self._usable(path) for path in found if path.is_dir()]
        self.looked_in.update(path / "cgroup.events" for path in usable)  # processes enter it, or the last has left
        return usable

    def look_again(self) -> None:
        """What ``resolve`` says of containers is of one look until then."""
        self._looked = False
        self.looked_in.clear()

    @property
    def container_problems(self) -> tuple[str, ...]:
        """What of the state of container runtimes could not be read at the last look, if there was one."""
        return self._containers.problems if self._containers is not None and self._looked else ()

    def _of_containers(self, selectors: Selectors) -> list[Path]:
        if self._containers is None:
            return []
        if not self._looked:
            self._containers.look()
            self._looked = True
            self.looked_in.update(self._containers.looked_in)
        try:
            if selectors.container_id is not None:
                found = self._containers.by_id(selectors.container_id)
            else:
                found = self._containers.by_labels(selectors.container_labels)
        except StateError as error:
            raise CgroupError(str(error)) from error
        return [path for container in found for path in self._cgroups_of(container)]

    def _cgroups_of(self, container: Container) -> list[Path]:
        paths = [self._mount / cgroup.lstrip("/") for cgroup in container.cgroups if cgroup != "/"]
        for path in paths:
            if path != path.resolve() or not path.is_relative_to(self.root):
                raise CgroupError(
                    f"container {container.id} is in {path}, not below the agent's cgroup root {self.root}"
                )
        return paths

    def _units(self, unit: str) -> list[Path]:
        """Directories of that name whose ancestors are slices: where systemd puts units.

        What lies below a service or scope may belong to its processes (delegation): they could make a cgroup of any
        name and would gain another workload's identity.
        """
        if not unit or "/" in unit or unit.startswith("."):
            raise CgroupError(f"{unit!r} is not the name of a systemd unit")
        found = []
        queue = [self.root]
        looked_at = 0
        while queue:
            if (looked_at := looked_at + 1) > MAX_SLICES:
                raise CgroupError(f"more than {MAX_SLICES} slices below {self.root}; select by cgroupPath instead")
            try:
                directory = queue.pop()
                self.looked_in.add(directory)
                with os.scandir(directory) as entries:
                    for entry in entries:
                        if entry.name == unit and entry.is_dir(follow_symlinks=False):
                            found.append(Path(entry.path))
                        elif entry.name.endswith(".slice") and entry.is_dir(follow_symlinks=False):
                            queue.append(Path(entry.path))
            except FileNotFoundError:
                continue
        return sorted(found)

    def _usable(self, path: Path) -> Path:
        own = self._mount / own_cgroup(Path("/proc/self/cgroup").read_text()).lstrip("/")
        if own == path or path in own.parents:
            raise CgroupError(
                f"the agent itself runs in {path}: its own connections would be captured; move it elsewhere"
            )
        if len(path.relative_to(self._mount).parts) >= MAX_DEPTH:
            raise CgroupError(f"{path} is deeper than {MAX_DEPTH - 1} levels; enrol one of its ancestors")
        return path


def cgroup_id(path: Path) -> int | None:
    """The kernel's id of a cgroup (the inode of its directory, never used again); None if it is gone."""
    try:
        return path.stat().st_ino
    except OSError:
        return None


def _nearest(path: Path) -> Path:
    """The deepest directory of this path that exists."""
    return next((each for each in (path, *path.parents) if each.is_dir()), path)


def _relative(text: str) -> str:
    parts = [part for part in text.split("/") if part]
    if not parts or any(part in (".", "..") for part in parts):
        raise CgroupError(f"cgroup path {text!r}: write a path below the agent's cgroup root, such as /shop/web")
    return "/".join(parts)
