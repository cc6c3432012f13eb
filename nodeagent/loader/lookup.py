"""The program on arriving connections (sk_lookup): loaded once for each network namespace, attached to it, pinned.

Pinned like the cgroups' links it outlives the agent, and goes when its namespace does.
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from pathlib import Path

from nodeagent.loader.abi import INBOUND_PROGRAM, AttachType
from nodeagent.loader.errors import BpfError
from nodeagent.loader.objects import MeshObject
from nodeagent.loader.pins import PinDirectory
from nodeagent.loader.sys import libbpf

OBJECT_PATH = Path(__file__).with_name("inbound.bpf.o")
_PREFIX = "inbound_"
_NAME = re.compile(rf"{_PREFIX}([0-9]+)\Z")


class InboundLinks:
    """The links of this instance, one a namespace, by the namespace's cookie."""

    def __init__(self, pins: PinDirectory) -> None:
        self._pins = pins
        self._sys = libbpf()
        self._held: dict[int, int] = {}

    def attach(self, cookie: int, inode: int, netns_fd: int) -> None:
        """Put the program in force in that namespace, or the present version of it if one is; idempotent.

        BpfError, and nothing changed, if the kernel refuses.
        """
        program = self._program(cookie)
        try:
            pin = self._pin(cookie)
            if pin.exists():
                link = self._sys.get(pin)
                if self._inode(link) == inode:
                    self._hold(cookie, link)
                    self._sys.replace(link, program.program_fd(INBOUND_PROGRAM))
                    return
                os.close(link)
                pin.unlink()
            link = self._sys.lib.bpf_link_create(
                program.program_fd(INBOUND_PROGRAM), netns_fd, AttachType.SK_LOOKUP, self._sys.ffi.NULL
            )
            self._hold(cookie, self._sys.check(link, "cannot attach to arriving connections (sk_lookup)"))
            self._sys.pin(self._held[cookie], pin)
        finally:
            program.close()

    def standing(self, cookie: int, inode: int) -> bool:
        """Whether our program is in force there: nobody detached it."""
        return cookie in self._held and self._inode(self._held[cookie]) == inode

    def release(self, cookie: int) -> None:
        """Take it out of force and remove its pin."""
        pin = self._pin(cookie)
        link = self._held.pop(cookie, None)
        if link is None and pin.exists():
            link = self._sys.get(pin)
        if link is not None:
            with suppress(BpfError):  # its namespace is gone, and with it whatever it was attached to
                self._sys.detach(link)
            os.close(link)
        pin.unlink(missing_ok=True)

    def pinned(self) -> set[int]:
        """Cookies of the namespaces that have a link of this instance, also one from an earlier run."""
        return {int(match.group(1)) for pin in self._pins.links.iterdir() if (match := _NAME.match(pin.name))}

    def close(self) -> None:
        """The pins keep the links in force."""
        for link in self._held.values():
            os.close(link)
        self._held.clear()

    def _hold(self, cookie: int, link: int) -> None:
        before = self._held.pop(cookie, None)
        if before is not None:
            os.close(before)
        self._held[cookie] = link

    def _pin(self, cookie: int) -> Path:
        return self._pins.links / f"{_PREFIX}{cookie}"

    def _inode(self, link: int) -> int:
        """Of the namespace that the link is attached to; 0: it is gone, or the link was detached."""
        info = self._sys.info(link, "link")
        return int.from_bytes(int(info.cgroup_id).to_bytes(8, sys.byteorder)[:4], sys.byteorder)

    def _program(self, cookie: int) -> MeshObject:
        """Loaded for that namespace, over the pinned maps."""
        made = MeshObject(OBJECT_PATH)
        try:
            made.set_constants(".rodata", cookie.to_bytes(8, sys.byteorder))
            for name in made.maps:
                made.reuse(name, self._pins.maps / name)
            made.load()
        except BaseException:
            made.close()
            raise
        return made
