"""What a runtime told ``nodeagent oci-hook`` of a container that it is creating, kept for the agent:
``<run_dir>/<instance>.containers/<id>.json``.

At that moment the first process of the container is in its cgroup and in its network namespace and runs nothing yet,
and the runtime has not written its own state. A record counts as long as that very cgroup exists (ids of cgroups are
never used again); the agent removes those that do not.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodeagent.containers.facts import Container, StateError, is_container_id, read_json, texts
from nodeagent.containers.oci import bundle_annotations


@dataclass(frozen=True, slots=True)
class Creation:
    """A container whose first process waits for the hook."""

    id: str
    pid: int
    cgroup: str
    cgroup_id: int
    labels: dict[str, str]


def parse_state(text: str) -> tuple[str, int, Path | None, dict[str, str]]:
    """Id, process, bundle and annotations of the OCI state that a hook reads; StateError if it is none."""
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StateError(f"the state on the standard input is not JSON: {error}") from error
    found = document if isinstance(document, dict) else {}
    identifier, pid, bundle = found.get("id"), found.get("pid"), found.get("bundle")
    if not isinstance(identifier, str) or not is_container_id(identifier):
        raise StateError("the standard input is no OCI state: it has no id of a container")
    if not isinstance(pid, int) or pid <= 0:
        raise StateError(
            f"container {identifier} has no process yet: use this as a hook 'createRuntime' (or 'prestart')"
        )
    place = Path(bundle) if isinstance(bundle, str) else None
    return identifier, pid, place, texts(found.get("annotations"))


def creation(text: str, mount: Path) -> Creation:
    """What the hook's standard input, the process and the bundle say. StateError if that is not enough."""
    identifier, pid, bundle, told = parse_state(text)
    labels = {**(bundle_annotations(bundle) if bundle is not None else {}), **told}
    try:
        membership = Path(f"/proc/{pid}/cgroup").read_text()
        cgroup = next((line[3:] for line in membership.splitlines() if line.startswith("0::")), "/")
        number = (mount / cgroup.lstrip("/")).stat().st_ino
    except OSError as error:
        raise StateError(f"container {identifier}: process {pid} cannot be looked at: {error.strerror}") from error
    if cgroup == "/":
        raise StateError(f"container {identifier} has no cgroup of its own: nothing tells it from the host")
    return Creation(identifier, pid, cgroup, number, labels)


def record(directory: Path, made: Creation) -> None:
    """Tell the agent. OSError if that cannot be."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    content = {"cgroup": made.cgroup, "cgroup_id": made.cgroup_id, "labels": made.labels}
    # the name without .json is nobody's until the file is whole
    draft = directory / f".{made.id}.{os.getpid()}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        json.dump(content, stream)
    draft.rename(directory / f"{made.id}.json")


def read_record(path: Path, mount: Path) -> Container | None:
    """The container of a record; None if its cgroup is gone, and with it the record."""
    document = read_json(path)
    cgroup, number = (document.get("cgroup"), document.get("cgroup_id")) if isinstance(document, dict) else (None, None)
    if not isinstance(cgroup, str) or not isinstance(number, int):
        raise StateError(f"{path}: not a record of a container")
    try:
        alive = (mount / cgroup.lstrip("/")).stat().st_ino == number
    except OSError:
        alive = False
    if not alive:
        with contextlib.suppress(OSError):
            path.unlink()
        return None
    return Container(path.stem, (cgroup,), texts(document.get("labels")))
