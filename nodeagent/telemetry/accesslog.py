"""One logfmt line for each connection that ended. Writing never blocks or fails the relay: lines beyond a bound are
dropped and counted. Of one source (a workload, a remote identity, an address) so many are written in a second, then one
line with the sum: what others do cannot fill the disk. Metrics count every connection.

Lines are gathered for a moment on the event loop, then handed to one thread that alone touches the file descriptor: a
pipe that nobody reads stops that thread and nothing else. Whatever a peer can influence is escaped, so that nobody can
forge a line.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import re
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from nodeagent.limits.lines import WINDOW_SECONDS, Lines, Suppressed
from nodeagent.limits.settings import Limits
from nodeagent.telemetry.flow import FlowRecord, Reporter, owner_of

MAX_PENDING_BYTES = 4 * 1024 * 1024
"""Lines that are not written yet; more are dropped (``dropped``)."""
MAX_VALUE_CHARACTERS = 512
ATOMIC_BYTES = 4096
"""PIPE_BUF on Linux: writes up to this many bytes do not mix with those of the other workers on the same pipe."""
CLOSE_SECONDS = 1.0
STDOUT = 1

_PLAIN = re.compile(r"[!#-<>-\[\]-~]+")
"""Printable ASCII without blank, ``"``, ``=`` and backslash: needs no quotes."""
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_DIRECTION = {Reporter.SOURCE: "outbound", Reporter.DESTINATION: "inbound"}


def format_line(record: FlowRecord, cluster: str = "") -> str:
    """The line of a connection, without its line end. A value that is not known is ``-``."""
    return " ".join([f"{key}={quote(str(value)) if value else '-'}" for key, value in _fields(record, cluster)])


def format_sum(found: Suppressed) -> str:
    """The line that stands for those of a source that were left out, without its line end."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    hint = quote("further lines of this source in one second; metrics count them all")
    reasons = quote(found.described())
    return f"time={now} suppressed={found.count} source={quote(found.source)} reasons={reasons} hint={hint}"


def quote(value: str) -> str:
    """A logfmt value: quoted where it has blanks, quotes, ``=`` or control characters, which are escaped; bounded."""
    if len(value) > MAX_VALUE_CHARACTERS:
        value = value[: MAX_VALUE_CHARACTERS - 1] + "…"
    if _PLAIN.fullmatch(value):
        return value
    if value.isprintable() and '"' not in value and "\\" not in value:
        return f'"{value}"'
    return '"' + "".join(_escape(c) for c in value) + '"'


def _escape(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    # line separators, direction overrides, lone surrogates and the like can fake a line on a terminal
    return character if character.isprintable() else f"\\u{{{ord(character):x}}}"


def _fields(record: FlowRecord, cluster: str) -> list[tuple[str, object]]:
    source, destination, service = record.source, record.destination, record.service
    explanation = record.reason.value
    ended = record.ended if record.ended is not None else record.started
    outbound = record.reporter is Reporter.SOURCE
    return [
        ("time", datetime.fromtimestamp(ended, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")),
        ("src.addr", record.source_address),
        ("src.workload", source and source.name),
        ("src.namespace", source and source.namespace),
        ("src.identity", record.source_principal),
        ("src.cluster", (source and source.cluster) or (cluster if outbound else "")),
        ("dst.addr", record.destination_address),
        ("dst.hbone_addr", record.tunnel_address),
        ("dst.service", service and service.hostname),
        ("dst.workload", destination and destination.name),
        ("dst.namespace", destination and destination.namespace),
        ("dst.identity", record.destination_principal),
        ("dst.cluster", (destination and destination.cluster) or ("" if outbound else cluster)),
        ("direction", _DIRECTION[record.reporter]),
        ("bytes_sent", str(record.bytes_sent)),
        ("bytes_recv", str(record.bytes_received)),
        ("duration", f"{max(0.0, ended - record.started) * 1000:.1f}ms"),
        ("error", record.detail or (explanation.code if explanation.hint else "")),
        ("reason", explanation.code),
        ("fault", explanation.fault.value),
        ("hint", explanation.hint),
        ("traceparent", record.trace_parent),
        ("src.claimed", record.claimed_address),
        ("dst.reached", record.reached_address),
    ]


class Log(Protocol):
    """Where the relay tells of connections that ended."""

    dropped: int

    def write(self, record: FlowRecord) -> None:
        """Log the connection; never blocks, never raises."""

    def close(self) -> None:
        """Write what is pending, for at most CLOSE_SECONDS."""


class NoLog:
    """Access log off."""

    dropped = 0

    def write(self, record: FlowRecord) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class AccessLog:
    """Writes lines to a file descriptor that it was given, or to a path that it opens and can reopen.

    ``defer`` runs a function a little later on the same thread, for example ``loop.call_soon``.
    """

    def __init__(
        self, target: str, defer: Callable[[Callable[[], None]], object], cluster: str = "",
        limits: Limits | None = None,
    ) -> None:  # fmt: skip
        """``target``: ``stdout`` or a path; OSError if the path cannot be opened for appending."""
        limits = limits or Limits()
        self._established, self._refused = Lines(limits.access_lines), Lines(limits.refused_lines)
        self._owes = False
        """Whether there is a sum to be written."""
        self._target = target
        self._defer = defer
        self._cluster = cluster
        self._descriptor = _open(target)
        self._lines: list[bytes] = []
        self._pending = 0
        self._deferred = False
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._reopen = threading.Event()
        self.dropped = 0
        self._thread = threading.Thread(target=self._drain, name="access-log", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def write(self, record: FlowRecord) -> None:
        """Log the connection; never blocks, never raises."""
        if not self._allows(record):
            return
        try:
            line = format_line(record, self._cluster).encode("utf-8", "backslashreplace") + b"\n"
        except Exception:  # a defect here must not take connections down; it shows in the counter
            self.dropped += 1
            return
        with self._lock:
            if self._pending + len(line) > MAX_PENDING_BYTES:
                self.dropped += 1
                return
            self._pending += len(line)
        self._lines.append(line)
        if not self._deferred:
            self._deferred = True
            self._defer(self.flush)

    def _allows(self, record: FlowRecord) -> bool:
        with self._lock:
            lines = self._established if record.established else self._refused
            allowed = lines.allow(owner_of(record), record.reason.code, time.monotonic())
            wakes = not allowed and not self._owes
            self._owes = self._owes or wakes
        if wakes:
            self._queue.put(b"")
        return allowed

    def flush(self) -> None:
        """Hand what was gathered to the writing thread, in chunks that other writers cannot break up."""
        self._deferred = False
        lines, self._lines = self._lines, []
        chunk = bytearray()
        for line in lines:
            if chunk and len(chunk) + len(line) > ATOMIC_BYTES:
                self._queue.put(bytes(chunk))
                chunk.clear()
            chunk += line
        if chunk:
            self._queue.put(bytes(chunk))

    def reopen(self) -> None:
        """Open the path anew before the next line (after log rotation)."""
        self._reopen.set()

    def close(self) -> None:
        """Write what is pending, for at most CLOSE_SECONDS; also done when the process exits."""
        atexit.unregister(self.close)
        self.flush()
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)

    def _drain(self) -> None:
        while (chunk := self._next()) is not None:
            self._reopen_if_asked()
            self._put_out(chunk)
            with self._lock:
                self._pending -= len(chunk)
            for line in self._sums():
                self._put_out(line)
        for line in self._sums(last=True):
            self._put_out(line)
        if self._descriptor != STDOUT:
            os.close(self._descriptor)

    def _next(self) -> bytes | None:
        """What to write next; empty when a sum is due."""
        try:
            return self._queue.get(timeout=WINDOW_SECONDS if self._owes else None)
        except queue.Empty:
            return b""

    def _put_out(self, chunk: bytes) -> None:
        try:
            _write_all(self._descriptor, chunk)
        except OSError:  # disk full, reader gone: the lines are lost, and counted
            self.dropped += chunk.count(b"\n")

    def _sums(self, *, last: bool = False) -> list[bytes]:
        with self._lock:
            if not self._owes:
                return []
            now = time.monotonic()
            over = [*self._refused.sums(now, last=last), *self._established.sums(now, last=last)]
            self._owes = self._refused.owing or self._established.owing
        return [format_sum(found).encode("utf-8", "backslashreplace") + b"\n" for found in over]

    def _reopen_if_asked(self) -> None:
        if not self._reopen.is_set() or self._descriptor == STDOUT:
            return
        self._reopen.clear()
        with contextlib.suppress(OSError):
            fresh = _open(self._target)
            os.close(self._descriptor)
            self._descriptor = fresh


def open_log(
    target: str, defer: Callable[[Callable[[], None]], object], cluster: str = "", limits: Limits | None = None
) -> Log:
    """The access log for the setting ``access_log``: ``stdout``, ``off`` or a path (OSError if it cannot be opened)."""
    return NoLog() if target == "off" else AccessLog(target, defer, cluster, limits)


def _open(target: str) -> int:
    if target == "stdout":
        return STDOUT
    return os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
