"""What outlives the agent: ``<bpffs>/nodemesh/<instance>/{maps,links}``, held by one process at a time.

bpffs has no names with dots; what is being built carries the prefix ``new_`` until it is complete.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from pathlib import Path

from nodeagent.loader.errors import BpfError, LoaderError, PinsBusyError
from nodeagent.loader.sys import libbpf

ROOT_NAME = "nodemesh"
MAX_PINS = 4096
"""More entries below one instance than this are not ours to remove blindly."""
MAX_PIN_DEPTH = 4
MAX_LOCK_ATTEMPTS = 8
_ASIDE = "new_"
_INSTANCE = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}\Z")


def instance_path(bpffs: Path, instance: str) -> Path:
    """Where an instance keeps its pins."""
    if not _INSTANCE.match(instance):
        raise LoaderError(f"instance {instance!r}: use lower-case letters, digits, '-' and '_', at most 63 characters")
    return bpffs / ROOT_NAME / instance


def map_pin(pin_dir: Path, name: str) -> Path:
    """Where a map is pinned; for processes that only open maps."""
    return pin_dir / "maps" / name


class PinDirectory:
    """The pins of one instance, locked (flock on the directory) until ``close``. ``mounted`` tells whether bpffs had
    to be mounted.
    """

    def __init__(self, bpffs: Path, instance: str) -> None:
        self.path = instance_path(bpffs, instance)
        self.mounted = _ensure_bpffs(bpffs)
        self._lock = _lock(self.path, create=True)
        self.maps = self.path / "maps"
        self.links = self.path / "links"
        for directory in (self.maps, self.links):
            directory.mkdir(mode=0o700, exist_ok=True)

    def aside(self, final: Path) -> Path:
        """The name under which ``final`` is built."""
        return final.with_name(_ASIDE + final.name)

    def sweep_aside(self) -> None:
        """Remove what an interrupted installation left half made."""
        for directory in (self.maps, self.links):
            for pin in directory.glob(_ASIDE + "*"):
                pin.unlink()

    def close(self) -> None:
        """Let the next process in (also where a child inherited the descriptor); the pins stay."""
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        os.close(self._lock)


def remove_all(bpffs: Path, instance: str) -> list[Path]:
    """Detach and remove everything that any version of the agent pinned for this instance; what was removed, in order.

    PinsBusyError if an agent runs. Links go first, so that nothing is captured half-way; they are detached, so that a
    process that still holds one does not keep it in force.
    """
    path = instance_path(bpffs, instance)
    if not path.exists():
        return []
    lock = _lock(path, create=False)
    try:
        pins, directories = _walk(path)
        links = [pin for pin in pins if pin.parent.name == "links"]
        for pin in sorted(links, key=lambda pin: "connect" not in pin.name):
            _detach(pin)
        removed = []
        for pin in links + [pin for pin in pins if pin not in links]:
            pin.unlink()
            removed.append(pin)
        for directory in directories:
            directory.rmdir()
            removed.append(directory)
    finally:
        os.close(lock)
    parent = path.parent
    if not any(parent.iterdir()):
        parent.rmdir()
    return removed


def _detach(pin: Path) -> None:
    """What is not a link (nothing of ours) is merely unpinned later."""
    fd = libbpf().get(pin)
    try:
        libbpf().detach(fd)
    except BpfError as error:
        if error.code != errno.EINVAL:
            raise
    finally:
        os.close(fd)


def _walk(path: Path) -> tuple[list[Path], list[Path]]:
    """Pins, and directories (deepest first, ``path`` last)."""
    pins: list[Path] = []
    directories: list[Path] = []
    for top, names, files in os.walk(path, topdown=False):
        here = Path(top)
        pins += [here / name for name in sorted(files)]
        directories.append(here)
        depth = len(here.relative_to(path).parts)
        if depth > MAX_PIN_DEPTH or len(pins) + len(names) > MAX_PINS:
            raise LoaderError(f"{path} holds more than an agent ever pins; look at it and remove it by hand")
    return pins, directories


def _ensure_bpffs(bpffs: Path) -> bool:
    """Mount a BPF file system unless the directory is in one; whether that was needed."""
    if bpffs.is_dir() and libbpf().is_bpffs(bpffs):
        return False
    try:
        bpffs.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise BpfError(f"cannot make the directory {bpffs} for pins", error.errno or 0) from error
    libbpf().mount_bpffs(bpffs)
    return True


def _lock(path: Path, *, create: bool) -> int:
    """A locked descriptor of the directory. A directory that an unload removed in between is made anew."""
    for _ in range(MAX_LOCK_ATTEMPTS):
        if create:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise PinsBusyError(f"another process holds {path}; is an agent of this instance running?") from error
        if path.exists() and path.stat().st_ino == os.fstat(fd).st_ino:
            return fd
        os.close(fd)
    raise PinsBusyError(f"{path} keeps disappearing; is something else unloading this instance?")
