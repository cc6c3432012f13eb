"""Which resolver a DNS question was meant for: a worker's question to the kernel at each datagram."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import NamedTuple

from control.wire.address import SocketAddress, packed_ip, unpacked_ip
from nodeagent.loader.questions import Askers

_MAPPED = bytes(10) + b"\xff\xff"


class Asker(NamedTuple):
    """A UDP socket that was sent to the agent."""

    resolver: SocketAddress
    cgroup_id: int
    pid: int
    scope: int
    """Interface of a link-local resolver; 0: none."""


class AskerTable:
    """What the kernel noted when it sent a question to the agent. One thread; one system call a question."""

    def __init__(self, pin_dir: Path) -> None:
        self._askers = Askers(pin_dir)

    def find(self, netns_cookie: int, source: SocketAddress, slot: int) -> Asker | None:
        """By where the question comes from, and the agent's listener; None: no socket is there that the kernel sent
        here."""
        ip = source.ip
        packed = packed_ip(ip) if ":" in ip else _MAPPED + socket.inet_aton(ip)
        asked = self._askers.find(netns_cookie, packed, source.port, slot)
        if asked is None:
            return None
        addr = asked.addr
        text = socket.inet_ntoa(addr[12:]) if addr.startswith(_MAPPED) else unpacked_ip(addr)
        return Asker(SocketAddress(text, asked.port), asked.cgroup_id, asked.pid, asked.scope)

    def close(self) -> None:
        """Close the map."""
        self._askers.close()
