"""Labels that docker, podman and containerd keep of their containers, read again when something may have changed."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from nodeagent.containers.containerd import containerd_change, containerd_labels
from nodeagent.containers.docker import docker_labels
from nodeagent.containers.facts import Signature, StateError, signature
from nodeagent.containers.podman import databases, podman_labels


class Labels:
    """``read``, then ask: answers are of that reading."""

    def __init__(self, *, docker: Path, podman: Path, containerd: Path) -> None:
        self._docker_root = docker
        self._podman_root = podman
        self._containerd_root = containerd
        self._docker: dict[str, dict[str, str]] = {}
        self._podman: dict[str, dict[str, str]] = {}
        self._podman_seen: Signature = ()
        self._containerd: dict[str, dict[str, str]] = {}
        self._containerd_seen: tuple[int, ...] = ()
        self._containerd_old = False

    def of(self, identifier: str) -> dict[str, str]:
        """Of one container."""
        return {
            **self._containerd.get(identifier, {}),
            **self._docker.get(identifier, {}),
            **self._podman.get(identifier, {}),
        }

    def read(self, identifiers: Collection[str], *, changed: bool) -> list[str]:
        """Of these containers; what could not be read. ``changed``: whether containers came or went."""
        self._docker = {identifier: labels for identifier, labels in self._docker.items() if identifier in identifiers}
        problems = self._read_docker(identifiers)
        try:
            self._read_podman(identifiers)
        except StateError as error:
            problems.append(str(error))
        try:
            self._read_containerd(identifiers, changed=changed)
        except StateError as error:
            problems.append(str(error))
        return problems

    def _read_docker(self, identifiers: Collection[str]) -> list[str]:
        problems = []
        for identifier in identifiers:
            try:
                found = None if identifier in self._docker else docker_labels(self._docker_root, identifier)
            except StateError as error:
                problems.append(str(error))
                continue
            if found is not None:
                self._docker[identifier] = found
        return problems

    def _read_podman(self, identifiers: Collection[str]) -> None:
        """Labels of an id do not change: it is drawn by lot."""
        if all(identifier in self._podman for identifier in identifiers):
            return
        seen = signature(databases(self._podman_root))
        if seen and seen != self._podman_seen:
            self._podman, self._podman_seen = podman_labels(self._podman_root), seen

    def _read_containerd(self, identifiers: Collection[str], *, changed: bool) -> None:
        """Its ids are chosen by people too, and used again for another container."""
        unknown = any(identifier not in self._containerd for identifier in identifiers)
        self._containerd_old = bool(identifiers) and (self._containerd_old or changed or unknown)
        if not self._containerd_old:
            return
        seen = containerd_change(self._containerd_root)
        if seen != self._containerd_seen:
            self._containerd, self._containerd_seen = containerd_labels(self._containerd_root), seen
        self._containerd_old = False
