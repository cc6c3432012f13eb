"""Which program holds a port of this host: sock_diag, through pyroute2.

The kernel filters by port, so the answers are few and the cost of decoding them does not matter. pyroute2 hides errors
of sock_diag: an empty answer means "unknown", never "free".
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from nodeagent.capture.holders import socket_inodes

TCP_LISTEN: Final = 10
_PROTOCOLS: Final = {socket.SOCK_STREAM: socket.IPPROTO_TCP, socket.SOCK_DGRAM: socket.IPPROTO_UDP}


class PortHolder(NamedTuple):
    """A process that has a socket with the port."""

    pid: int
    name: str
    """As the kernel has it: at most 15 characters."""

    def __str__(self) -> str:
        return f"{self.name}, process {self.pid}"


def holder_of(port: int, kind: socket.SocketKind) -> PortHolder | None:
    """Who listens at this port of this network namespace, in either family, or at least has it as its own port.

    None: unknown. Either the kernel does not say, or the process is in another PID namespace or may not be looked at.
    Not for a thread that runs an event loop: pyroute2 runs one of its own.
    """
    inodes = set(_inodes(port, kind))
    for status in Path("/proc").glob("[0-9]*/comm") if inodes else ():
        try:
            if inodes & socket_inodes(int(status.parent.name)):
                return PortHolder(int(status.parent.name), status.read_text().rstrip("\n"))
        except OSError:  # it ended, or belongs to another user
            continue
    return None


def _inodes(port: int, kind: socket.SocketKind) -> list[int]:
    """Of the sockets whose own port it is; of the listening ones alone, if there are any."""
    found = list(_answers(port, kind))
    listening = [each for each in found if kind is socket.SOCK_STREAM and each["idiag_state"] == TCP_LISTEN]
    return [each["idiag_inode"] for each in listening or found if each["idiag_inode"]]


def _answers(port: int, kind: socket.SocketKind) -> Iterator[dict[str, Any]]:
    # here, not above: it costs every command, and the agent, 0.1 s of CPU and 7 MB, and only a taken port needs it
    from pyroute2 import DiagSocket  # noqa: PLC0415

    with DiagSocket() as diag:
        diag.bind()
        for family in (socket.AF_INET, socket.AF_INET6):
            for each in diag.get_sock_stats(family=family, protocol=_PROTOCOLS[kind], sport=port):
                if each.get("idiag_sport") == port:  # an error of the kernel is decoded as an answer without fields
                    yield each
