"""Typed views of the maps by which the agent's ports are nobody else's. As in ``maps``: one thread, ``close`` them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

from nodeagent.loader import abi
from nodeagent.loader.maps import _View

_ORDER = sys.byteorder
_ONE = (1).to_bytes(4, _ORDER)


class DoorKey(NamedTuple):
    """A port of the agent's."""

    netns: int
    """Cookie of the network namespace."""
    protocol: int
    """``IPPROTO_TCP`` or ``IPPROTO_UDP``."""
    port: int


class DoorTable(_View):
    """DoorKey -> ``abi.DoorFlag``."""

    def __init__(self, pin_dir: Path) -> None:
        super().__init__(pin_dir, abi.DOOR_MAP, abi.DOOR_KEY.size, abi.DOOR.size)

    def put(self, key: DoorKey, flags: int) -> None:
        """From now on only sockets that the agent marked are bound to it. MapFullError if there is no room."""
        self._put(_door(key), abi.DOOR.codec.pack(flags))

    def remove(self, key: DoorKey) -> bool:
        """Whether it was there."""
        return self._remove(_door(key))

    def entries(self) -> dict[DoorKey, int]:
        """All of them."""
        found = {}
        for key, value in self._all():
            netns, port, protocol, _ = abi.DOOR_KEY.codec.unpack(key)
            found[DoorKey(netns, protocol, int.from_bytes(port, "big"))] = abi.DOOR.codec.unpack(value)[0]
        return found


class OwnSockets(_View):
    """The agent's own sockets, marked by whoever made them."""

    def __init__(self, pin_dir: Path) -> None:
        super().__init__(pin_dir, abi.OURS_MAP, 4, 4)

    def put(self, descriptor: int) -> None:
        """The socket may be bound to the agent's ports."""
        self._put(descriptor.to_bytes(4, _ORDER), _ONE)


class SteerKey(NamedTuple):
    """A socket of a worker."""

    netns: int
    """Cookie of the network namespace."""
    addr: bytes
    """What it is met at; ``::`` or ``0.0.0.0`` (16 bytes): at every address."""
    port: int
    """0: it takes plaintext to ports of workloads."""
    worker: int
    protocol: int


class Steers(_View):
    """SteerKey -> a worker's socket, until it is closed."""

    def __init__(self, pin_dir: Path) -> None:
        super().__init__(pin_dir, abi.STEER_MAP, abi.STEER_KEY.size, 8)

    def put(self, key: SteerKey, descriptor: int) -> None:
        """From now on the kernel gives what arrives there to this socket. MapFullError if there is no room."""
        at = abi.ENDPOINT.codec.pack(key.addr, abi.port_bytes(key.port), 0)
        packed = abi.STEER_KEY.codec.pack(key.netns, at, key.worker, key.protocol, 0)
        self._put(packed, descriptor.to_bytes(8, _ORDER))


class CrewCounts(_View):
    """How many workers there are, and how many of them take new connections."""

    def __init__(self, pin_dir: Path) -> None:
        super().__init__(pin_dir, abi.CREW_MAP, 4, 4)

    def put(self, what: abi.Crew, number: int) -> None:
        """In force at once."""
        self._put(int(what).to_bytes(4, _ORDER), number.to_bytes(4, _ORDER))


def _door(key: DoorKey) -> bytes:
    return abi.DOOR_KEY.codec.pack(key.netns, abi.port_bytes(key.port), key.protocol, b"")
