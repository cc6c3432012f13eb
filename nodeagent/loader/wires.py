"""The program on packets of confined cgroups: loaded once, attached to each of them, and pinned.

A link outlives the agent, and goes with its cgroup.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from nodeagent.loader.abi import WIRE_PROGRAM, AttachType
from nodeagent.loader.errors import BpfError
from nodeagent.loader.objects import MeshObject
from nodeagent.loader.pins import PinDirectory
from nodeagent.loader.sys import libbpf

OBJECT_PATH = Path(__file__).with_name("wire.bpf.o")
_PREFIX = "wire_"
_NAME = re.compile(rf"{_PREFIX}([0-9]+)\Z")


class WireLinks:
    """The links of this instance, one a cgroup, by the cgroup's id. Those of an earlier run get the present program."""

    def __init__(self, pins: PinDirectory) -> None:
        self._pins = pins
        self._sys = libbpf()
        self._held: dict[int, int] = {}
        self._object = MeshObject(OBJECT_PATH)
        try:
            for name in self._object.maps:
                self._object.reuse(name, pins.maps / name)
            self._object.load()
            self._program = self._object.program_fd(WIRE_PROGRAM)
            for cgroup in self._pinned():
                self._take_over(cgroup)
        except BaseException:
            self.close()
            raise

    def follow(self, wanted: Mapping[int, Path], *, keep: bool = False) -> list[str]:
        """Be in force on exactly these cgroups (id -> directory), with ``keep`` also where it is already. Problems, if
        the kernel refuses.
        """
        problems = []
        for cgroup, directory in wanted.items():
            if cgroup not in self._held:
                try:
                    self._attach(cgroup, directory)
                except (BpfError, OSError) as error:
                    problems.append(f"packets of {directory} for loopback may leave by another interface: {error}")
        for cgroup in () if keep else self._held.keys() - wanted.keys():
            self._release(cgroup)
        return problems

    def close(self) -> None:
        """The pins keep the links in force."""
        for link in self._held.values():
            os.close(link)
        self._held.clear()
        self._object.close()

    def _attach(self, cgroup: int, directory: Path) -> None:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            link = self._sys.attach(self._program, fd, AttachType.INET_EGRESS)
        finally:
            os.close(fd)
        self._held[cgroup] = link
        self._sys.pin(link, self._pin(cgroup))

    def _take_over(self, cgroup: int) -> None:
        link = self._sys.get(self._pin(cgroup))
        self._held[cgroup] = link
        try:
            self._sys.replace(link, self._program)
        except BpfError:  # the cgroup is gone
            self._release(cgroup)

    def _release(self, cgroup: int) -> None:
        link = self._held.pop(cgroup)
        with suppress(BpfError):  # the cgroup is gone, and with it whatever was attached to it
            self._sys.detach(link)
        os.close(link)
        self._pin(cgroup).unlink(missing_ok=True)

    def _pinned(self) -> list[int]:
        return [int(match.group(1)) for pin in self._pins.links.iterdir() if (match := _NAME.match(pin.name))]

    def _pin(self, cgroup: int) -> Path:
        return self._pins.links / f"{_PREFIX}{cgroup}"
