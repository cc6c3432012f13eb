"""Typed views of the pinned maps. A view owns one descriptor and its buffers: use it from one thread; ``close`` it.

Addresses are 16 bytes (IPv4 as ``::ffff:a.b.c.d``), ports numbers. The agent is the only writer of all but flows and
counters.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from nodeagent.loader import abi
from nodeagent.loader.errors import BpfError, IncompatiblePinError, LoaderError, MapFullError
from nodeagent.loader.pins import map_pin
from nodeagent.loader.sys import libbpf

_FULL = (errno.E2BIG, errno.ENOMEM, errno.ENOSPC)
BATCH = 4096
"""Entries a system call, where many are written or read."""
_ORDER = sys.byteorder
_SINGLE = bytes(4)
_CLIENT_OF_DIAL = abi.CLIENT.codec.pack(bytes(20), abi.ClientRole.OF_DIAL, 0)


class DestinationKey(NamedTuple):
    """An address and port of the mesh."""

    addr: bytes
    port: int


class Tagged(NamedTuple):
    """What an entry says: the CRC-32 of its owner's uid (for readers of the map), and flags."""

    tag: int
    flags: int


class ListenerRecord(NamedTuple):
    """Where a network namespace's connections go, and ``abi.ListenerFlag``."""

    port: int
    flags: int = 0


class FlowEntry(NamedTuple):
    """What the kernel knows of a captured connection."""

    addr: bytes
    port: int
    cgroup_id: int
    socket_cookie: int
    pid: int
    uid: int
    ktime: int
    scope: int = 0
    """Interface of a link-local destination; 0: none."""


class _View:
    """A pinned map with one key and one value buffer."""

    def __init__(self, pin_dir: Path, name: str, key_size: int, value_size: int) -> None:
        self._sys = libbpf()
        self.path = map_pin(pin_dir, name)
        self.fd = self._sys.get(self.path)
        info = self._sys.info(self.fd, "map")
        if (info.key_size, info.value_size) != (key_size, value_size):
            os.close(self.fd)
            raise IncompatiblePinError(
                f"the pinned map {self.path} has another layout than this agent's; run 'nodeagent unload'"
            )
        self.capacity = int(info.max_entries)
        ffi = self._sys.ffi
        self._key = ffi.new("char[]", key_size)
        self._next = ffi.new("char[]", key_size)
        self._value = ffi.new("char[]", value_size)
        self._key_bytes = ffi.buffer(self._key)
        self._value_bytes = ffi.buffer(self._value)

    def close(self) -> None:
        """Close the descriptor; the map stays."""
        os.close(self.fd)

    def _put(self, key: bytes, value: bytes) -> None:
        self._key_bytes[:] = key
        self._value_bytes[:] = value
        result = self._sys.lib.bpf_map_update_elem(self.fd, self._key, self._value, 0)
        if result < 0:
            if -result in _FULL:
                raise MapFullError(f"no room in {self.path} ({self.capacity} entries)", -result)
            raise BpfError(f"cannot write to {self.path}", -result)

    def _remove(self, key: bytes) -> bool:
        self._key_bytes[:] = key
        result = self._sys.lib.bpf_map_delete_elem(self.fd, self._key)
        if result < 0 and result != -errno.ENOENT:
            raise BpfError(f"cannot delete from {self.path}", -result)
        return bool(result >= 0)

    def _put_many(self, entries: list[tuple[bytes, bytes]]) -> int:
        """How many of them, from the first on, are in the map now; fewer than all if it is full."""
        ffi, written = self._sys.ffi, 0
        while chunk := entries[written : written + BATCH]:
            keys = ffi.from_buffer(b"".join(key for key, _ in chunk))
            values = ffi.from_buffer(b"".join(value for _, value in chunk))
            count = ffi.new("uint32_t *", len(chunk))
            result = self._sys.lib.bpf_map_update_batch(self.fd, keys, values, count, ffi.NULL)
            written += int(count[0])
            if -result in _FULL:
                break
            if result < 0:
                raise BpfError(f"cannot write to {self.path}", -result)
        return written

    def _items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every entry. Nobody else may write meanwhile; the walk is bounded by the map's capacity."""
        lib, ffi = self._sys.lib, self._sys.ffi
        result = lib.bpf_map_get_next_key(self.fd, ffi.NULL, self._next)
        for _ in range(self.capacity):
            if result < 0:
                break
            key = bytes(ffi.buffer(self._next))
            if lib.bpf_map_lookup_elem(self.fd, self._next, self._value) == 0:
                yield key, bytes(self._value_bytes)
            self._key_bytes[:] = key
            result = lib.bpf_map_get_next_key(self.fd, self._key, self._next)

    def _all(self) -> Iterator[tuple[bytes, bytes]]:
        """Every entry of a hash, many a call. Nobody else may write meanwhile."""
        ffi, key, value = self._sys.ffi, len(self._key_bytes), len(self._value_bytes)
        keys, values = ffi.new("char[]", BATCH * key), ffi.new("char[]", BATCH * value)
        place, start = ffi.new("char[]", max(key, 8)), ffi.NULL
        for _ in range(self.capacity + 1):
            count = ffi.new("uint32_t *", BATCH)
            result = self._sys.lib.bpf_map_lookup_batch(self.fd, start, place, keys, values, count, ffi.NULL)
            if result < 0 and result != -errno.ENOENT:
                raise BpfError(f"cannot read {self.path}", -result)
            found = int(count[0])
            all_keys, all_values = bytes(ffi.buffer(keys, found * key)), bytes(ffi.buffer(values, found * value))
            for at in range(found):
                yield all_keys[at * key : at * key + key], all_values[at * value : at * value + value]
            if result < 0:
                return
            start = place


class EnrolledCgroups(_View):
    """Cgroup id -> Tagged."""

    def __init__(self, pin_dir: Path) -> None:
        super().__init__(pin_dir, abi.CGROUP_MAP, 8, abi.CGROUP.size)

    def put(self, cgroup_id: int, entry: Tagged) -> None:
        """Enrol; MapFullError if there is no room."""
        self._put(cgroup_id.to_bytes(8, _ORDER), abi.CGROUP.codec.pack(*entry))

    def remove(self, cgroup_id: int) -> bool:
        """Whether it was enrolled."""
        return self._remove(cgroup_id.to_bytes(8, _ORDER))

    def entries(self) -> dict[int, Tagged]:
        """All that is enrolled."""
        return {int.from_bytes(key, _ORDER): Tagged(*abi.CGROUP.codec.unpack(value)) for key, value in self._items()}


class Users(_View):
    """(Cgroup id, user) -> the id that stands for both."""

    def __init__(self, pin_dir: Path) -> None:
        super().__init__(pin_dir, abi.USER_MAP, abi.USER_KEY.size, 8)

    def put(self, cgroup_id: int, uid: int, number: int) -> None:
        """MapFullError if there is no room."""
        self._put(abi.USER_KEY.codec.pack(cgroup_id, uid, 0), number.to_bytes(8, _ORDER))

    def remove(self, cgroup_id: int, uid: int) -> bool:
        """Whether it was there."""
        return self._remove(abi.USER_KEY.codec.pack(cgroup_id, uid, 0))

    def entries(self) -> dict[tuple[int, int], int]:
        """All of them."""
        unpack = abi.USER_KEY.codec.unpack
        return {unpack(key)[:2]: int.from_bytes(value, _ORDER) for key, value in self._items()}


class Destinations(_View):
    """DestinationKey -> Tagged (flags: ``abi.DestinationFlag``)."""

    def __init__(self, pin_dir: Path) -> None:
        super().__init__(pin_dir, abi.DESTINATION_MAP, abi.ENDPOINT.size, abi.DESTINATION.size)

    def put(self, entries: Iterable[tuple[DestinationKey, Tagged]]) -> int:
        """Add or change; how many of them, from the first on, are in the map now: fewer than all if it is full."""
        pack = abi.DESTINATION.codec.pack
        return self._put_many([(_endpoint(key), pack(*entry)) for key, entry in entries])

    def remove(self, key: DestinationKey) -> bool:
        """Whether it was there."""
        return self._remove(_endpoint(key))

    def entries(self) -> dict[DestinationKey, Tagged]:
        """All destinations."""
        found = {}
        for key, value in self._all():
            addr, port, _ = abi.ENDPOINT.codec.unpack(key)
            found[DestinationKey(addr, int.from_bytes(port, "big"))] = Tagged(*abi.DESTINATION.codec.unpack(value))
        return found


class Listeners(_View):
    """Network namespace cookie -> ListenerRecord."""

    def __init__(self, pin_dir: Path) -> None:
        super().__init__(pin_dir, abi.LISTENER_MAP, 8, abi.LISTENER.size)

    def put(self, netns_cookie: int, record: ListenerRecord) -> None:
        """From now on connections of that namespace go to this port, while a worker listens there."""
        packed = abi.LISTENER.codec.pack(abi.port_bytes(record.port), record.flags, 0)
        self._put(netns_cookie.to_bytes(8, _ORDER), packed)

    def remove(self, netns_cookie: int) -> bool:
        """From now on connections of that namespace are refused (EPERM)."""
        return self._remove(netns_cookie.to_bytes(8, _ORDER))

    def entries(self) -> dict[int, ListenerRecord]:
        """All of them."""
        found = {}
        for key, value in self._items():
            port, flags, _ = abi.LISTENER.codec.unpack(value)
            found[int.from_bytes(key, _ORDER)] = ListenerRecord(int.from_bytes(port, "big"), flags)
        return found


class Settings(_View):
    """The switches that the programs read."""

    def __init__(self, pin_dir: Path) -> None:
        super().__init__(pin_dir, abi.CONFIG_MAP, 4, abi.CONFIG.size)

    def set(self, flags: abi.ConfigFlag) -> None:
        """In force at once."""
        self._put(_SINGLE, abi.CONFIG.codec.pack(flags, 0))

    def flags(self) -> abi.ConfigFlag:
        """What is in force."""
        for _, value in self._items():
            return abi.ConfigFlag(abi.CONFIG.codec.unpack(value)[0])
        return abi.ConfigFlag(0)


class Alive(_View):
    """Where the manager says that it lives and knows the node: with a listener, that is there as long as it is."""

    def __init__(self, pin_dir: Path) -> None:
        super().__init__(pin_dir, abi.ALIVE_MAP, 4, 8)

    def put(self, descriptor: int) -> None:
        """From now on, until the listener is closed."""
        self._put(_SINGLE, descriptor.to_bytes(8, _ORDER))


class Flows(_View):
    """Records of captured connections, by the client's end as ``accept`` shows it."""

    def __init__(self, pin_dir: Path) -> None:
        super().__init__(pin_dir, abi.FLOW_MAP, abi.FLOW_KEY.size, abi.FLOW.size)
        self._take = self._sys.lib.bpf_map_lookup_and_delete_elem
        self._pack_key = abi.FLOW_KEY.codec.pack_into
        self._unpack = abi.FLOW.codec.unpack_from

    def take(self, netns_cookie: int, addr: bytes, port: int) -> FlowEntry | None:
        """The record, which is gone then; None if there is none. One system call."""
        self._pack_key(self._key_bytes, 0, netns_cookie, addr, port.to_bytes(2, "big"), b"")
        result = self._take(self.fd, self._key, self._value)
        if result < 0:
            if result == -errno.ENOENT:
                return None
            raise BpfError(f"cannot read {self.path}", -result)
        cookie, cgroup_id, ktime, destination, pid, uid, scope = self._unpack(self._value_bytes)
        return FlowEntry(
            destination[:16], int.from_bytes(destination[16:18], "big"), cgroup_id, cookie, pid, uid, ktime, scope,
        )  # fmt: skip

    def count(self) -> int:
        """How many wait to be taken (a walk: for tests and debugging)."""
        return sum(1 for _ in self._items())


class Clients(_View):
    """For whom the agent speaks on its own sockets, told before they connect."""

    def __init__(self, pin_dir: Path) -> None:
        super().__init__(pin_dir, abi.CLIENT_MAP, 4, abi.CLIENT.size)
        self._update = self._sys.lib.bpf_map_update_elem
        self._descriptor = self._sys.ffi.cast("int *", self._key)
        self._tell = struct.Struct("!16sH").pack_into
        self._value_bytes[:] = _CLIENT_OF_DIAL  # all but the client stays so

    def tell(self, descriptor: int, addr: bytes, port: int) -> None:
        """Mark the socket: the server at its other end will see this client (port 0: none). One system call."""
        self._descriptor[0] = descriptor
        self._tell(self._value_bytes, 0, addr, port)
        result = self._update(self.fd, self._key, self._value, 0)
        if result < 0:
            raise BpfError(f"cannot write to {self.path}", -result)

    def go_out(self, descriptor: int) -> None:
        """Mark the socket: it goes to a host outside the mesh, whoever that is, and is nobody's dial or probe."""
        try:
            self._put(descriptor.to_bytes(4, _ORDER), abi.CLIENT.codec.pack(bytes(20), abi.ClientRole.OUTWARD, 0))
        finally:
            self._value_bytes[:] = _CLIENT_OF_DIAL


class Counters(_View):
    """What the programs counted since they were first loaded."""

    def __init__(self, pin_dir: Path) -> None:
        self._cpus = libbpf().possible_cpus()
        super().__init__(pin_dir, abi.COUNT_MAP, 4, 8)
        self._value = self._sys.ffi.new("char[]", 8 * self._cpus)
        self._value_bytes = self._sys.ffi.buffer(self._value)

    def read(self) -> dict[str, int]:
        """Sum over the CPUs by name (``abi.CaptureCount``, lower case)."""
        totals = {}
        for counter in abi.CaptureCount:
            self._key_bytes[:] = int(counter).to_bytes(4, _ORDER)
            if self._sys.lib.bpf_map_lookup_elem(self.fd, self._key, self._value) < 0:
                raise LoaderError(f"cannot read counter {counter.name} from {self.path}")
            totals[counter.name.lower()] = sum(memoryview(bytes(self._value_bytes)).cast("Q"))
        return totals


def _endpoint(key: DestinationKey) -> bytes:
    return abi.ENDPOINT.codec.pack(key.addr, abi.port_bytes(key.port), 0)
