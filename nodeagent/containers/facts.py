"""What is known of a container, and how state on disk is read: nothing that others than root can write is believed."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

MAX_STATE_BYTES: Final = 4 * 1024 * 1024
"""Of one file; runc's are 20 to 60 KiB."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,254}\Z")
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


Signature = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Container:
    """One container that runs, or is about to."""

    id: str
    cgroups: tuple[str, ...]
    """From the mount point of cgroup v2, such as ``/system.slice/docker-3f2a….scope``."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels and OCI annotations."""


class StateError(Exception):
    """State of a runtime cannot be read, or is not to be believed; the text says which and why."""


def is_container_id(text: str) -> bool:
    """Whether it can be one, and the name of a file."""
    return bool(_ID.match(text))


def read_json(path: Path) -> Any:
    """A document that root wrote. FileNotFoundError if there is none, StateError if it cannot be used."""
    data = read_bytes(path, MAX_STATE_BYTES)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StateError(f"{path}: not JSON: {error}") from error


def read_bytes(path: Path, most: int) -> bytes:
    """A file that root wrote and nobody else may write."""
    try:
        with path.open("rb") as stream:
            check_owner(path, os.fstat(stream.fileno()))
            data = stream.read(most + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}") from error
    if len(data) > most:
        raise StateError(f"{path}: larger than {most} bytes")
    return data


def check_owner(path: Path, found: os.stat_result) -> None:
    """StateError unless the file or directory is the agent's user's, and nobody else may write it."""
    if found.st_uid != os.geteuid() or found.st_mode & _WRITABLE_BY_OTHERS:
        mode = stat.S_IMODE(found.st_mode)
        raise StateError(f"{path}: user {found.st_uid}, mode {mode:o}: only what nobody but root can write is believed")


def texts(value: Any) -> dict[str, str]:
    """Those entries of a JSON object that are text."""
    if not isinstance(value, dict):
        return {}
    return {str(key): item for key, item in value.items() if isinstance(item, str)}


def signature(files: tuple[Path, ...]) -> Signature:
    """Of those that exist; another one when one of them changes."""
    found = []
    for path in files:
        try:
            status = path.stat()
        except OSError:
            continue
        found.append((status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(found)
