"""Typed views of the maps that say who left the mesh and who was kept from it. As in ``maps``: one thread, ``close``
them. The kernel is their only writer; the agent takes out what is of no more use.
"""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import NamedTuple

from nodeagent.loader import abi
from nodeagent.loader.errors import BpfError
from nodeagent.loader.maps import _View
from nodeagent.loader.sys import libbpf

_ORDER = sys.byteorder


class EgressCounts(NamedTuple):
    """Connections and datagrams of a cgroup out of the mesh, since it was first seen."""

    tcp_allowed: int = 0
    tcp_refused: int = 0
    udp_allowed: int = 0
    udp_refused: int = 0
    other_refused: int = 0


class RefusedKey(NamedTuple):
    """What a cgroup was refused."""

    cgroup_id: int
    addr: bytes
    """16 bytes; all zero for a socket of another protocol than TCP and UDP."""
    port: int
    protocol: int
    """``IPPROTO_*``."""


class RefusedNote(NamedTuple):
    """How often, and when and by which process the last time."""

    number: int
    ktime: int
    """CLOCK_MONOTONIC nanoseconds."""
    pid: int
    """0: not known."""


class EgressTotals(_View):
    """Cgroup id -> EgressCounts."""

    def __init__(self, pin_dir: Path) -> None:
        super().__init__(pin_dir, abi.EGRESS_MAP, 8, abi.EGRESS.size)
        self._value = self._sys.ffi.new("char[]", abi.EGRESS.size * libbpf().possible_cpus())
        self._value_bytes = self._sys.ffi.buffer(self._value)

    def read(self, cgroup_id: int) -> EgressCounts:
        """The sum over the CPUs; zeros for a cgroup that never left the mesh."""
        self._key_bytes[:] = cgroup_id.to_bytes(8, _ORDER)
        result = self._sys.lib.bpf_map_lookup_elem(self.fd, self._key, self._value)
        if result == -errno.ENOENT:
            return EgressCounts()
        if result < 0:
            raise BpfError(f"cannot read {self.path}", -result)
        rows = abi.EGRESS.codec.iter_unpack(bytes(self._value_bytes))
        return EgressCounts(*map(sum, zip(*rows, strict=True)))

    def remove(self, cgroup_id: int) -> None:
        """Of a cgroup that is not enrolled any more."""
        self._remove(cgroup_id.to_bytes(8, _ORDER))

    def cgroups(self) -> set[int]:
        """Ids of all that have counts."""
        return {int.from_bytes(key, _ORDER) for key, _ in self._items()}


class RefusedNotes(_View):
    """RefusedKey -> RefusedNote, the least recent of which the kernel forgets."""

    def __init__(self, pin_dir: Path) -> None:
        super().__init__(pin_dir, abi.REFUSED_MAP, abi.REFUSED_KEY.size, abi.REFUSED.size)

    def entries(self) -> dict[RefusedKey, RefusedNote]:
        """All of them; what the kernel notes meanwhile may be in it or not."""
        found = {}
        for key, value in self._all():
            cgroup_id, to, protocol = abi.REFUSED_KEY.codec.unpack(key)
            note = RefusedNote(*abi.REFUSED.codec.unpack(value)[:3])
            found[RefusedKey(cgroup_id, to[:16], int.from_bytes(to[16:18], "big"), protocol)] = note
        return found
