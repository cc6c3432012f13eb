"""What a captured connection was meant for, and who made it: a worker's question to the kernel at each accept."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import NamedTuple, Protocol

from control.wire.address import SocketAddress, packed_ip, unpacked_ip
from nodeagent.loader.maps import Flows
from nodeagent.namespaces.handle import current_cookie

TCP_CLOSE = 7
"""``net/tcp_states.h``: the connection was reset, or never was."""
_MAPPED = bytes(10) + b"\xff\xff"


class CapturedFlow(NamedTuple):
    """The kernel's record of a captured connection."""

    destination: SocketAddress
    """What the application asked for."""
    cgroup_id: int
    """The enrolled cgroup, perhaps an ancestor of the process's own."""
    socket_cookie: int
    pid: int
    uid: int
    scope: int = 0
    """Interface of a link-local destination; 0: none."""


class AcceptedSocket(Protocol):
    """What is used of the accepted socket (``socket.socket``, or what an event loop shows of one)."""

    def getsockopt(self, level: int, option: int, buflen: int, /) -> bytes:
        """As of a socket."""


class FlowTable:
    """The records of captured connections, by default of this network namespace. One thread, one system call each.

    Ask only about connections accepted on exactly 127.0.0.1 or ::1 at the capture port: only there is the client's
    address and port the whole key.
    """

    def __init__(self, pin_dir: Path, cookie: int | None = None) -> None:
        self._flows = Flows(pin_dir)
        self._cookie = current_cookie() if cookie is None else cookie

    def take(self, source: SocketAddress, accepted: AcceptedSocket, cookie: int | None = None) -> CapturedFlow | None:
        """The record of the connection from ``source`` (canonical) in the network namespace of this cookie (None: the
        table's own), once. None: nobody captured it; refuse it.

        The record is this connection's own only if the connection still stands when the record has been taken. One
        that was reset while it waited to be accepted gave its port free, and another process, of another workload,
        may have come from that port since: without this check, what the first one had sent would travel under the
        identity of the second.
        """
        ip = source.ip
        packed = packed_ip(ip) if ":" in ip else _MAPPED + socket.inet_aton(ip)
        flow = self._flows.take(self._cookie if cookie is None else cookie, packed, source.port)
        if flow is None or accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_CLOSE:
            return None
        addr = flow.addr
        text = socket.inet_ntoa(addr[12:]) if addr.startswith(_MAPPED) else unpacked_ip(addr)
        return CapturedFlow(
            SocketAddress(text, flow.port), flow.cgroup_id, flow.socket_cookie, flow.pid, flow.uid, flow.scope
        )

    def close(self) -> None:
        """Close the map."""
        self._flows.close()
