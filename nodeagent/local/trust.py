"""Whether a path is one that nobody but root, or this very user, can put something else at.

Every directory on the way has to belong to root or to this user, and nobody else may write to it; where everybody may,
as in /tmp, the sticky bit has to keep them from replacing what is not theirs.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Final

OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


class UntrustedPathError(Exception):
    """Somebody else could have put there what is there; the text says who, and what to do."""


def trusted_users() -> frozenset[int]:
    """Root, and the user of this process."""
    return frozenset((0, os.geteuid()))


def open_directory(path: Path, users: Collection[int]) -> int:
    """A descriptor (O_PATH) of the directory, once it and everything above it is found trusted. OSError if there is
    none, UntrustedPathError.
    """
    path = path.resolve()
    descriptor = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _check(os.fstat(descriptor), Path("/"), users)
        for number, part in enumerate(path.parts[1:], 2):
            # step by step, without symbolic links: what was looked at is what is gone through
            inner = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
            _check(os.fstat(descriptor), Path(*path.parts[:number]), users)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check(found: os.stat_result, path: Path, users: Collection[int]) -> None:
    if found.st_uid not in users:
        raise UntrustedPathError(
            f"{path} belongs to user {found.st_uid}, who could pose as the agent; it is to belong to root"
        )
    if found.st_mode & OTHERS and not found.st_mode & stat.S_ISVTX:
        raise UntrustedPathError(
            f"{path} is writable for others than its owner, who could pose as the agent: chmod go-w {path}"
        )


def check_socket(directory: int, name: str, users: Collection[int]) -> None:
    """OSError if there is no such file in the directory, UntrustedPathError if it is not a socket of these users."""
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISSOCK(found.st_mode):
        raise UntrustedPathError(f"{name} is not a socket: something else than an agent has made it")
    if found.st_uid not in users:
        raise UntrustedPathError(f"{name} was made by user {found.st_uid}, who is not root: it is no agent's")
