"""The compiled programs: from the object file into the kernel, and onto the hooks of a cgroup.

``install`` is the whole life-cycle step: pinned maps of the same layout are used again (state survives), pinned links
get the new programs atomically, everything else is made beside its final name and renamed at the end. If a step
fails, what was there before is in force again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from nodeagent.loader.abi import PROGRAMS
from nodeagent.loader.errors import IncompatiblePinError, LoaderError
from nodeagent.loader.features import reads_kernel
from nodeagent.loader.pins import PinDirectory
from nodeagent.loader.sys import Libbpf, libbpf

OBJECT_PATH = Path(__file__).with_name("mesh.bpf.o")
_PEEK_SECTION = ".rodata.peek"
"""``mesh_peeks`` of bpf/include/peek.h."""
_MAP_FIELDS = ("type", "key_size", "value_size", "max_entries", "map_flags")


class MeshObject:
    """One object file, opened and, after ``load``, in the kernel. Closing it leaves what is pinned or attached."""

    def __init__(self, path: Path = OBJECT_PATH) -> None:
        if not path.exists():
            raise LoaderError(f"the BPF object {path} is missing; build it with 'make -C bpf'")
        self._sys: Libbpf = libbpf()
        self._path = path
        self._handle: Any = self._sys.open_object(path)
        self.maps = self._sys.maps(self._handle)
        self.programs = self._sys.programs(self._handle)

    def resize(self, sizes: Mapping[str, int]) -> None:
        """Other capacities than the object's own; before ``load``."""
        for name, entries in sizes.items():
            result = self._sys.lib.bpf_map__set_max_entries(self.maps[name], entries)
            self._sys.check(result, f"cannot size map {name}")

    def reuse(self, name: str, pin: Path) -> None:
        """Take the pinned map instead of making one; IncompatiblePinError if its layout differs; before ``load``."""
        fd = self._sys.get(pin)
        try:
            have = self._sys.info(fd, "map")
            for field in _MAP_FIELDS:
                want = int(getattr(self._sys.lib, f"bpf_map__{field}")(self.maps[name]))
                if want != int(getattr(have, field)):
                    raise IncompatiblePinError(
                        f"the pinned map {pin} has {field} {getattr(have, field)}, this agent needs {want}: another"
                        " version of the agent made it; run 'nodeagent unload', which ends capture until the next start"
                    )
            self._sys.check(self._sys.lib.bpf_map__reuse_fd(self.maps[name], fd), f"cannot use the pinned map {pin}")
        finally:
            os.close(fd)

    def set_constants(self, section: str, value: bytes) -> None:
        """Give a section of constants, of exactly this size, another value than the object's own; before ``load``."""
        entry = self._sys.internal_map(self._handle, section)
        result = self._sys.lib.bpf_map__set_initial_value(entry, value, len(value))
        self._sys.check(result, f"cannot set the constants {section}")

    def load(self) -> None:
        """Make the maps and pass every program through the verifier."""
        self._sys.load_object(self._handle, str(self._path.name))

    def map_fd(self, name: str) -> int:
        """Owned by the object."""
        return int(self._sys.lib.bpf_map__fd(self.maps[name]))

    def program_fd(self, name: str) -> int:
        """Owned by the object."""
        return int(self._sys.lib.bpf_program__fd(self.programs[name]))

    def close(self) -> None:
        """Let go of it; call once."""
        self._sys.close_object(self._handle)


def install(
    pins: PinDirectory, cgroup_root: Path, sizes: Mapping[str, int] | None = None, path: Path = OBJECT_PATH
) -> tuple[str, ...]:
    """Load, pin and attach at ``cgroup_root``; idempotent. The names of the programs in force. All or nothing."""
    mesh = MeshObject(path)
    try:
        _Installation(pins, cgroup_root, mesh).run(sizes or {})
    finally:
        mesh.close()
    return tuple(PROGRAMS)


class PinnedLinks:
    """Our links, held open so that looking at them costs next to nothing."""

    def __init__(self, pins: PinDirectory) -> None:
        self._fds = {name: libbpf().get(pins.links / name) for name in PROGRAMS}

    def programs(self, cgroup_id: int | None) -> dict[str, int]:
        """Program -> the kernel's id of it, of those in force on that cgroup: a detached link is left out."""
        infos = {name: libbpf().info(fd, "link") for name, fd in self._fds.items()}
        return {name: int(info.prog_id) for name, info in infos.items() if info.cgroup_id == cgroup_id}

    def close(self) -> None:
        """The pins keep the links in force."""
        for fd in self._fds.values():
            os.close(fd)


def pinned_programs(pin_dir: Path) -> dict[str, int]:
    """Program -> the kernel's id of it, of the links that are pinned there, whether or not an agent lives; for
    processes that only look. BpfError where they may not.
    """
    found = {}
    for name in PROGRAMS:
        if (pin := pin_dir / "links" / name).exists():
            fd = libbpf().get(pin)
            try:
                found[name] = int(libbpf().info(fd, "link").prog_id)
            finally:
                os.close(fd)
    return found


class _Installation:
    """One run of ``install``: the undo list until everything is done, then the renames."""

    def __init__(self, pins: PinDirectory, cgroup_root: Path, mesh: MeshObject) -> None:
        self._sys = libbpf()
        self._pins = pins
        self._root = cgroup_root
        self._mesh = mesh
        self._aside: list[tuple[Path, Path]] = []

    def run(self, sizes: Mapping[str, int]) -> None:
        self._pins.sweep_aside()
        self._mesh.resize(sizes)
        if not reads_kernel():
            self._mesh.set_constants(_PEEK_SECTION, bytes(4))
        for name in self._mesh.maps:
            if (pin := self._pins.maps / name).exists():
                self._mesh.reuse(name, pin)
        self._mesh.load()
        with ExitStack() as held, ExitStack() as undo:
            for name in self._mesh.maps:
                if not (pin := self._pins.maps / name).exists():
                    self._pin_aside(self._mesh.map_fd(name), pin, undo)
            root_fd = _held(held, os.open(self._root, os.O_RDONLY | os.O_DIRECTORY))
            for name, hook in PROGRAMS.items():
                final = self._pins.links / name
                if not (final.exists() and self._update(final, hook, held, undo)):
                    link = _held(held, self._sys.attach(self._mesh.program_fd(name), root_fd, hook))
                    self._pin_aside(link, final, undo)
            for aside, final in self._aside:
                aside.rename(final)
            undo.pop_all()

    def _pin_aside(self, fd: int, final: Path, undo: ExitStack) -> None:
        aside = self._pins.aside(final)
        self._sys.pin(fd, aside)
        undo.callback(aside.unlink, missing_ok=True)
        self._aside.append((aside, final))

    def _update(self, pin: Path, hook: int, held: ExitStack, undo: ExitStack) -> bool:
        """Give the pinned link the new program. False if the link is on another cgroup, or on one that is gone."""
        link = _held(held, self._sys.get(pin))
        info = self._sys.info(link, "link")
        if info.cgroup_id != self._root.stat().st_ino or info.attach_type != hook:
            return False
        before = _held(held, self._sys.program_fd(info.prog_id))
        self._sys.replace(link, self._mesh.program_fd(pin.name))
        undo.callback(self._sys.replace, link, before)
        return True


def _held(held: ExitStack, fd: int) -> int:
    """The descriptor, closed at the end."""
    held.callback(os.close, fd)
    return fd
