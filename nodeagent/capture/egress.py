"""The manager's handle on what the kernel counted and noted of workloads that leave the mesh, or may not."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from control.wire.address import SocketAddress, unpacked_ip
from nodeagent.loader.egress import EgressCounts, EgressTotals, RefusedKey, RefusedNote, RefusedNotes

_NAMES = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp"}
_SOCKETS = {socket.IPPROTO_ICMP: "icmp", socket.IPPROTO_ICMPV6: "icmpv6", socket.IPPROTO_RAW: "raw",
            socket.IPPROTO_SCTP: "sctp"}  # fmt: skip


class Refused(NamedTuple):
    """Something that a cgroup was refused."""

    cgroup_id: int
    protocol: str
    """``tcp``, ``udp``, or which kind of socket it may not have."""
    destination: SocketAddress | None
    """None: a socket was refused, and with it every destination."""


class Times(NamedTuple):
    """How often since the kernel first noted it, and the last time."""

    number: int
    pid: int
    seconds: float
    """Ago."""


class EgressTable:
    """Reads the two maps, which survive the agent. Synchronous and quick."""

    def __init__(self, pin_dir: Path) -> None:
        self._totals = EgressTotals(pin_dir)
        self._notes = RefusedNotes(pin_dir)

    def counts(self, cgroup_id: int) -> EgressCounts:
        """Of one cgroup."""
        return self._totals.read(cgroup_id)

    def keep_only(self, cgroups: Iterable[int]) -> None:
        """Forget the counts of all others."""
        for gone in self._totals.cgroups() - set(cgroups):
            self._totals.remove(gone)

    def remove(self, cgroup_id: int) -> None:
        """Forget the counts of one."""
        self._totals.remove(cgroup_id)

    def refused(self) -> dict[Refused, Times]:
        """The most recent of what was refused, bounded by the map."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        return {_refused(key): _times(note, now) for key, note in self._notes.entries().items()}

    def close(self) -> None:
        """Let go; the kernel goes on counting."""
        self._totals.close()
        self._notes.close()


def _refused(key: RefusedKey) -> Refused:
    name = _NAMES.get(key.protocol)
    if name is None:
        return Refused(key.cgroup_id, _SOCKETS.get(key.protocol, f"protocol {key.protocol}"), None)
    return Refused(key.cgroup_id, name, SocketAddress(unpacked_ip(key.addr), key.port))


def _times(note: RefusedNote, now: int) -> Times:
    return Times(note.number, note.pid, max(0.0, (now - note.ktime) / 1e9))
