"""Typed views of the maps about DNS questions: where they go, and who asks. As in ``maps``: one thread, ``close``."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import NamedTuple

from nodeagent.loader import abi
from nodeagent.loader.errors import BpfError
from nodeagent.loader.maps import _View

_ORDER = sys.byteorder


class DnsRecord(NamedTuple):
    """Where a network namespace's DNS questions go, and the addresses (16 bytes; zeros: none) that an unbound socket is
    bound to when it connects to a resolver."""

    port: int
    source_v4: bytes = bytes(16)
    source_v6: bytes = bytes(16)


class Asked(NamedTuple):
    """Which resolver a UDP socket meant, and who asks."""

    addr: bytes
    port: int
    cgroup_id: int
    pid: int
    cookie: int
    """Of the asking socket."""
    scope: int
    """Interface of a link-local resolver; 0: none."""


class DnsPorts(_View):
    """Network namespace cookie -> DnsRecord: the first of the agent's DNS_SLOTS ports there."""

    def __init__(self, pin_dir: Path) -> None:
        super().__init__(pin_dir, abi.DNS_MAP, 8, abi.DNS.size)

    def put(self, netns_cookie: int, record: DnsRecord) -> None:
        """From now on DNS questions of that namespace go to these ports, while a worker listens there."""
        packed = abi.DNS.codec.pack(abi.port_bytes(record.port), 0, 0, record.source_v4 + record.source_v6)
        self._put(netns_cookie.to_bytes(8, _ORDER), packed)

    def remove(self, netns_cookie: int) -> bool:
        """From now on the namespace's questions go where they are sent."""
        return self._remove(netns_cookie.to_bytes(8, _ORDER))

    def entries(self) -> dict[int, DnsRecord]:
        """All of them."""
        found = {}
        for key, value in self._items():
            port, _, _, source = abi.DNS.codec.unpack(value)
            found[int.from_bytes(key, _ORDER)] = DnsRecord(int.from_bytes(port, "big"), source[:16], source[16:])
        return found


class Askers(_View):
    """Which resolver a UDP socket meant that asks the agent."""

    def __init__(self, pin_dir: Path) -> None:
        super().__init__(pin_dir, abi.ASKER_MAP, abi.ASKER.size, abi.ASKED.size)

    def find(self, netns_cookie: int, addr: bytes, port: int, slot: int) -> Asked | None:
        """By the socket's own address and port, and the place of the agent's listener; None if no socket asks from
        there."""
        at = abi.ENDPOINT.codec.pack(addr, abi.port_bytes(port), 0)
        key = abi.ASKER.codec.pack(netns_cookie, at, slot)
        self._key_bytes[:] = key
        result = self._sys.lib.bpf_map_lookup_elem(self.fd, self._key, self._value)
        if result < 0:
            if result == -errno.ENOENT:
                return None
            raise BpfError(f"cannot read {self.path}", -result)
        cgroup_id, cookie, resolver, pid, scope, _ = abi.ASKED.codec.unpack(bytes(self._value_bytes))
        return Asked(resolver[:16], int.from_bytes(resolver[16:18], "big"), cgroup_id, pid, cookie, scope)
