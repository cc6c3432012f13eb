"""State of OCI runtimes: ``<root>/<id>/state.json`` of runc, ``<root>/<id>/status`` of crun. Both name the cgroup and
the annotations. They are written when the container has been created: before that only a hook is told of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nodeagent.containers.facts import Container, StateError, read_json, texts


def read_runtime(directory: Path, mount: Path) -> Container | None:
    """The container whose state is in this directory; None if it has none yet, or none any more."""
    for name, reader in (("state.json", _runc), ("status", _crun)):
        try:
            document = read_json(directory / name)
        except FileNotFoundError:
            continue
        if not isinstance(document, dict):
            raise StateError(f"{directory / name}: not the state of a container")
        return reader(directory, document, mount)
    return None


def _runc(directory: Path, state: dict[str, Any], mount: Path) -> Container:
    config = state.get("config")
    config = config if isinstance(config, dict) else {}
    pairs = [text.partition("=") for text in config.get("labels") or () if isinstance(text, str)]
    labels = {key: value for key, _, value in pairs if key != "bundle"}
    return Container(directory.name, _cgroups(texts(state.get("cgroup_paths")).get(""), mount), labels)


def _crun(directory: Path, state: dict[str, Any], mount: Path) -> Container:
    del mount
    path, bundle = state.get("cgroup-path"), state.get("bundle")
    cgroups = (path,) if isinstance(path, str) and path.startswith("/") else ()
    return Container(directory.name, cgroups, bundle_annotations(Path(bundle)) if isinstance(bundle, str) else {})


def bundle_annotations(bundle: Path) -> dict[str, str]:
    """Of a container's configuration; none if it cannot be read."""
    try:
        document = read_json(bundle / "config.json")
    except (FileNotFoundError, StateError):
        return {}
    return texts(document.get("annotations")) if isinstance(document, dict) else {}


def _cgroups(path: str | None, mount: Path) -> tuple[str, ...]:
    """runc names the directory; on a host of cgroup v1 alone there is none."""
    if path is None or not Path(path).is_relative_to(mount):
        return ()
    return (f"/{Path(path).relative_to(mount)}",)
