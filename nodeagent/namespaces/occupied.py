"""Which sockets have a port of a network namespace: for messages, and to tell a listener from an old connection.

Read from the kernel's tables in /proc, only when a port cannot be had.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple

from nodeagent.namespaces.entry import NamespaceError, OpenNamespace, enter

MAX_NAMED: Final = 3
"""Sockets that a message names."""
MAX_DESCRIPTORS: Final = 1 << 20
"""Descriptors of the host that are looked through for a socket's process."""
LISTEN: Final = 10
_STATES: Final = {1: "connected", 2: "connecting", 6: "TIME_WAIT", 7: "open", LISTEN: "listening"}
"""``net/tcp_states.h``; 7 is what a UDP socket is in that is not connected."""
_ANYWHERE: Final = frozenset({"0.0.0.0", "::"})
_TABLES: Final = Path("/proc/thread-self/net")


class Occupant(NamedTuple):
    """A socket that has the port."""

    state: int
    local: tuple[str, int]
    remote: tuple[str, int]
    inode: int
    """0: no process holds it any more."""
    pid: int
    """0: not known, or none."""
    program: str

    def __str__(self) -> str:
        who = f"{self.program} (process {self.pid})" if self.pid else "no process" if not self.inode else "a process"
        state = _STATES.get(self.state, "closing")
        to = f" to {_text(self.remote)}" if self.remote[1] else ""
        return f"{_text(self.local)}{to}, {state}, of {who}"


def occupants(namespace: OpenNamespace | None, port: int, *, udp: bool = False) -> list[Occupant]:
    """All that have the port (None: in the calling thread's namespace). Nothing is raised: what cannot be read is left
    out.
    """
    names = ("udp", "udp6") if udp else ("tcp", "tcp6")

    def read() -> list[str]:
        tables = (_TABLES / name for name in names)
        return [line for table in tables if table.exists() for line in table.read_text().splitlines()[1:]]

    try:
        lines = read() if namespace is None else enter(namespace, read)
    except (OSError, NamespaceError):
        return []
    found = [entry for line in lines if (entry := _parsed(line)).local[1] == port]
    holders = _holders({entry.inode for entry in found} - {0})
    return [_named(entry, holders.get(entry.inode, 0)) for entry in found]


def others_listen(found: list[Occupant], ip: str, *, siblings: bool) -> bool:
    """Whether one of them listens at this address (``siblings``: other than this process and those of its parent)."""
    return any(
        entry.state == LISTEN and _overlap(entry.local[0], ip) and not (siblings and _is_ours(entry.pid))
        for entry in found
    )


def told(found: list[Occupant]) -> str:
    """The first of them in words."""
    if not found:
        return "no socket that can be seen"
    more = f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
    return "; ".join(str(entry) for entry in found[:MAX_NAMED]) + more


def _named(entry: Occupant, pid: int) -> Occupant:
    return entry._replace(pid=pid, program=_program(pid)) if pid else entry


def _overlap(one: str, other: str) -> bool:
    return one == other or not {one, other}.isdisjoint(_ANYWHERE)


def _is_ours(pid: int) -> bool:
    return pid == os.getpid() or (pid != 0 and _parent(pid) == os.getppid())


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("PPid:"):
                return int(line.split()[1])
    return 0


def _parsed(line: str) -> Occupant:
    fields = line.split()
    return Occupant(int(fields[3], 16), _end(fields[1]), _end(fields[2]), int(fields[9]), 0, "")


def _end(text: str) -> tuple[str, int]:
    """``0100007F:3A98``: words in the order of the host."""
    packed, _, port = text.partition(":")
    words = (packed[at : at + 8] for at in range(0, len(packed), 8))
    octets = b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in words)
    address = ip_address(octets)
    return str(getattr(address, "ipv4_mapped", None) or address), int(port, 16)


def _holders(inodes: set[int]) -> dict[int, int]:
    """Socket inode -> a process that has it open."""
    found: dict[int, int] = {}
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    for looked, (pid, path) in enumerate(_descriptors() if wanted else ()):
        if looked >= MAX_DESCRIPTORS or len(found) == len(wanted):
            break
        with contextlib.suppress(OSError):
            if (inode := wanted.get(os.readlink(path))) is not None:  # noqa: PTH115  # no Path for each descriptor
                found.setdefault(inode, pid)
    return found


def _descriptors() -> Iterator[tuple[int, str]]:
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                for name in os.listdir(process / "fd"):  # noqa: PTH208  # no Path for each descriptor
                    yield int(process.name), f"/proc/{process.name}/fd/{name}"


def _program(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return "a program"


def _text(end: tuple[str, int]) -> str:
    return f"[{end[0]}]:{end[1]}" if ":" in end[0] else f"{end[0]}:{end[1]}"
