"""What the agent itself says of a connection: the lines that its access log gains while the trace runs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

from nodeagent.trace.events import TraceEvent, checked_time

MAX_CHUNK_BYTES: Final = 1024 * 1024
MAX_LINE_BYTES: Final = 64 * 1024
_PAIR = re.compile(r'([\w.]+)=("(?:[^"\\]|\\.)*"|\S*)')
_ESCAPE = re.compile(r"\\(u\{([0-9a-f]+)\}|.)")
_PLAIN_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t"}
_SHOWN: Final = ("direction", "reason", "fault", "error", "hint", "duration")


def parse(line: str) -> dict[str, str]:
    """The keys and values of a logfmt line; what is ``-`` is left out."""
    pairs = ((key, _unquoted(value)) for key, value in _PAIR.findall(line))
    return {key: value for key, value in pairs if value not in ("", "-")}


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value
    return _ESCAPE.sub(_unescaped, value[1:-1])


def _unescaped(match: re.Match[str]) -> str:
    if match[2]:
        return chr(int(match[2], 16)) if int(match[2], 16) < 0x110000 else "?"
    return _PLAIN_ESCAPES.get(match[1], match[1])


def decision(line: str) -> TraceEvent | None:
    """What the agent says in the line; None if it is no line of the access log."""
    found = parse(line)
    try:
        time_ns = checked_time(int(datetime.fromisoformat(found["time"]).timestamp() * 1000) * 1_000_000)
    except (KeyError, ValueError, OverflowError):
        return None
    outbound = found.get("direction") == "outbound"
    owner = "src" if outbound else "dst"
    name, namespace = found.get(f"{owner}.workload"), found.get(f"{owner}.namespace")
    return TraceEvent(
        name="agent", time_ns=time_ns, side=None, source=found.get("src.addr"),
        destination=found.get("dst.addr"), workload=f"{namespace}/{name}" if name and namespace else None,
        details={key: found[key] for key in _SHOWN if key in found} | _workloads(found),
    )  # fmt: skip


def _workloads(found: dict[str, str]) -> dict[str, str]:
    """Both ends' workloads: a trace of either wants the line."""
    return {
        key: f"{found[f'{end}.namespace']}/{found[f'{end}.workload']}"
        for key, end in (("from", "src"), ("to", "dst"))
        if f"{end}.workload" in found and f"{end}.namespace" in found
    }


def concerns(event: TraceEvent, workload: str | None, port: int | None) -> bool:
    """Whether a trace that was narrowed so wants this line. (The kernel's events were filtered in the kernel.)"""
    ports = {end.rpartition(":")[2] for end in (event.source, event.destination) if end}
    if port is not None and str(port) not in ports:
        return False
    return workload is None or workload in (event.workload, event.details.get("from"), event.details.get("to"))


class AccessLogTail:
    """Lines that are appended to the file from now on; a rotated or truncated file is read from its beginning."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rest = b""
        self._inode = 0
        self._place = 0
        try:
            found = path.stat()
        except OSError:  # no connection has ended yet
            return
        self._inode, self._place = found.st_ino, found.st_size

    def read(self) -> Iterator[TraceEvent]:
        """What was said since the last call; OSError is nothing said."""
        for line in self._lines():
            event = decision(line)
            if event is not None:
                yield event

    def _lines(self) -> list[str]:
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                if found.st_ino != self._inode or found.st_size < self._place:
                    self._inode, self._place, self._rest = found.st_ino, 0, b""
                file.seek(self._place)
                chunk = file.read(MAX_CHUNK_BYTES)
        except OSError:
            return []
        self._place += len(chunk)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            self._rest = b""
        return [line.decode("utf-8", "replace") for line in lines]
