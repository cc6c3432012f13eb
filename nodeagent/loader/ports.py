"""Typed views of the maps by which plaintext to ports of workloads is met. As in ``maps``: one thread, ``close`` them.

The address ``ANYWHERE`` of a port stands for every address of the namespace that has no entry of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from nodeagent.loader import abi
from nodeagent.loader.maps import _View

ANYWHERE = bytes(16)
_ORDER = sys.byteorder
_IN_FORCE = (1).to_bytes(4, _ORDER)


class PortKey(NamedTuple):
    """A port of a workload of this node."""

    netns: int
    """Cookie of the network namespace."""
    addr: bytes
    port: int


class PortEntry(NamedTuple):
    """How plaintext to it is met."""

    mode: int
    """``abi.PortMode``; the kernel takes any other for STRICT."""
    flags: int
    """``abi.PortFlag``."""


class OwnKey(NamedTuple):
    """A cgroup, and where the workload that it belongs to listens."""

    cgroup_id: int
    netns: int
    """Cookie of the network namespace."""
    addr: bytes
    port: int


class PortModes(_View):
    """PortKey -> PortEntry."""

    def __init__(self, pin_dir: Path) -> None:
        super().__init__(pin_dir, abi.PORT_MAP, abi.PORT_KEY.size, abi.PORT.size)

    def put(self, entries: Iterable[tuple[PortKey, PortEntry]]) -> int:
        """Add or change; how many of them, from the first on, are in the map now: fewer than all if it is full."""
        return self._put_many([(_port(key), abi.PORT.codec.pack(*entry)) for key, entry in entries])

    def remove(self, key: PortKey) -> bool:
        """Whether it was there."""
        return self._remove(_port(key))

    def entries(self) -> dict[PortKey, PortEntry]:
        """All of them."""
        found = {}
        for key, value in self._all():
            netns, at, _ = abi.PORT_KEY.codec.unpack(key)
            found[PortKey(netns, at[:16], int.from_bytes(at[16:18], "big"))] = PortEntry(*abi.PORT.codec.unpack(value))
        return found


class OwnPorts(_View):
    """The set of OwnKeys."""

    def __init__(self, pin_dir: Path) -> None:
        super().__init__(pin_dir, abi.OWN_MAP, abi.OWN_KEY.size, 4)

    def put(self, keys: Iterable[OwnKey]) -> int:
        """How many of them, from the first on, are in the map now."""
        return self._put_many([(_own(key), _IN_FORCE) for key in keys])

    def remove(self, key: OwnKey) -> bool:
        """Whether it was there."""
        return self._remove(_own(key))

    def entries(self) -> set[OwnKey]:
        """All of them."""
        unpacked = (abi.OWN_KEY.codec.unpack(key) for key, _ in self._all())
        return {
            OwnKey(cgroup_id, netns, at[:16], int.from_bytes(at[16:18], "big")) for cgroup_id, netns, at, _ in unpacked
        }


class LocalAddresses(_View):
    """The set of the host's own addresses (16 bytes each)."""

    def __init__(self, pin_dir: Path) -> None:
        super().__init__(pin_dir, abi.LOCAL_MAP, 16, 4)

    def put(self, addresses: Iterable[bytes]) -> int:
        """How many of them, from the first on, are in the map now."""
        return self._put_many([(addr, _IN_FORCE) for addr in addresses])

    def remove(self, addr: bytes) -> bool:
        """Whether it was there."""
        return self._remove(addr)

    def entries(self) -> set[bytes]:
        """All of them."""
        return {key for key, _ in self._all()}


def _port(key: PortKey) -> bytes:
    at = abi.ENDPOINT.codec.pack(key.addr, abi.port_bytes(key.port), 0)
    return abi.PORT_KEY.codec.pack(key.netns, at, 0)


def _own(key: OwnKey) -> bytes:
    at = abi.ENDPOINT.codec.pack(key.addr, abi.port_bytes(key.port), 0)
    return abi.OWN_KEY.codec.pack(key.cgroup_id, key.netns, at, 0)
