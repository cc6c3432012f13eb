"""All containers of the node, as they are at one look; files that did not change are not read again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nodeagent.containers.facts import Container, Signature, StateError, is_container_id, signature
from nodeagent.containers.hooks import read_record
from nodeagent.containers.labels import Labels
from nodeagent.containers.oci import read_runtime

MAX_CONTAINERS: Final = 10_000
"""That are looked at in one place."""
SHORT_ID: Final = 12
"""Characters of an id that are enough to name a container, as docker and podman show them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where runtimes keep their state. A pattern may have ``*`` for whole components."""

    oci: tuple[str, ...] = ("/run/runc", "/run/crun", "/run/docker/runtime-*/*", "/run/containerd/runc/*")
    """Directories with one directory for each container, of runc or crun."""
    docker: Path = Path("/var/lib/docker")
    podman: Path = Path("/var/lib/containers/storage")
    containerd: Path = Path("/var/lib/containerd")


class Containers:
    """``look`` once, then ask: answers are of that look."""

    def __init__(self, places: Places, records: Path, mount: Path) -> None:
        """``records``: of ``hooks``. ``mount``: of cgroup v2."""
        self._places = places
        self._records = records
        self._mount = mount
        self._read: dict[Path, tuple[Signature, Container | None]] = {}
        self._labels = Labels(docker=places.docker, podman=places.podman, containerd=places.containerd)
        self._found: dict[str, Container] = {}
        self.looked_in: set[Path] = set()
        """Directories in which the last look looked: a container appears in one of them."""
        self.problems: tuple[str, ...] = ()
        """What could not be read or believed at the last look."""

    def look(self) -> None:
        """Read what there is now."""
        problems: list[str] = []
        self.looked_in = {self._records}
        seen: dict[Path, tuple[Signature, Container | None]] = {}
        found: dict[str, Container] = {}
        for path, files in self._states():
            container = self._state(path, files, seen, problems)
            if container is not None:
                found[container.id] = _joined(found.get(container.id), container)
        problems += self._labels.read(found.keys(), changed=seen != self._read)
        self._read = seen
        self._found = {
            identifier: Container(c.id, c.cgroups, {**c.labels, **self._labels.of(identifier)})
            for identifier, c in found.items()
        }
        self.problems = tuple(problems)

    def by_id(self, text: str) -> list[Container]:
        """The container of that id, or of which it is the beginning; StateError if that is more than one."""
        exact = self._found.get(text)
        if exact is not None:
            return [exact]
        starting = [c for c in self._found.values() if len(text) >= SHORT_ID and c.id.startswith(text)]
        if len(starting) > 1:
            named = " and ".join(sorted(c.id for c in starting))
            raise StateError(f"the containers {named} both begin with {text}: write more of the id")
        return starting

    def by_labels(self, wanted: Mapping[str, str]) -> list[Container]:
        """Every container with all of these labels."""
        return [c for c in self._found.values() if all(c.labels.get(key) == value for key, value in wanted.items())]

    def _states(self) -> Iterator[tuple[Path, tuple[Path, ...]]]:
        """What may describe a container, and the files whose change counts."""
        for path in _entries(self._records):
            if path.suffix == ".json" and is_container_id(path.stem):
                yield path, (path,)
        for pattern in self._places.oci:
            for root in sorted(Path("/").glob(pattern.lstrip("/"))):
                self.looked_in.add(root)
                for path in _entries(root):
                    if is_container_id(path.name):
                        yield path, (path / "state.json", path / "status")

    def _state(
        self,
        path: Path,
        files: tuple[Path, ...],
        seen: dict[Path, tuple[Signature, Container | None]],
        problems: list[str],
    ) -> Container | None:
        current, before = signature(files), self._read.get(path)
        record = path.suffix == ".json"  # it counts as long as its cgroup exists, which the file does not tell
        if before is not None and before[0] == current and current and not record:
            seen[path] = before
            return before[1]
        try:
            container = read_record(path, self._mount) if record else read_runtime(path, self._mount)
        except FileNotFoundError:
            return None
        except StateError as error:
            problems.append(str(error))
            return None
        seen[path] = (current, container)
        if container is None and not record:
            self.looked_in.add(path)  # its state is about to be written
        return container


def _joined(one: Container | None, other: Container) -> Container:
    if one is None:
        return other
    return Container(one.id, tuple(dict.fromkeys((*one.cgroups, *other.cgroups))), {**one.labels, **other.labels})


def _entries(directory: Path) -> list[Path]:
    try:
        with os.scandir(directory) as found:
            return [Path(entry.path) for entry, _ in zip(found, range(MAX_CONTAINERS), strict=False)]
    except OSError:
        return []
