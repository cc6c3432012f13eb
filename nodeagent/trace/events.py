"""What the probe says, as one line of the trace. Pure."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import Any, Final

from nodeagent.tables import Columns

COLUMNS: Final = Columns(
    ("TIME", "EVENT", "SIDE", "WORKLOAD", "PROCESS", "SOURCE", "DESTINATION", "ORIGINAL", "DETAIL"),
    (15, 14, 6, 20, 16, 21, 21, 21, 0),
    longest=120,
)
"""A stream has no widest cell; these widths fit names and IPv4."""
MAX_TIME_NS: Final = 253_402_214_400 * 10**9
"""Unix time of the last day of the year 9999: later moments cannot be written in every time zone."""
_ANY: Final = ("0.0.0.0", "[::]")


class BadEventError(ValueError):
    """The probe said something that is not understood: it is of another version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceEvent:
    """One thing that happened to one socket, or (``agent``) that the agent says of a connection."""

    name: str
    """``captured``, ``connect``, ``rewritten``, ``refused``, ``connect-failed``, ``accept``, ``state``, ``retransmit``,
    ``reset-sent``, ``reset-received``, ``destroy``, ``agent``.
    """
    time_ns: int
    """Unix time."""
    side: str | None
    """``client`` or ``server``: which end the socket is; None: it is older than the trace, or there is none."""
    source: str | None
    """The client's end; of a socket of unknown side, its own."""
    destination: str | None
    original: str | None = None
    """What the client asked for, where that is not ``destination``."""
    socket: str | None = None
    """The same for all events of a socket."""
    netns: int | None = None
    """Cookie of the network namespace."""
    cgroup: int | None = None
    """Of the process that made the socket."""
    client_cgroup: int | None = None
    """On the agent's socket: the enrolled cgroup for which it was accepted."""
    pid: int | None = None
    comm: str | None = None
    client_pid: int | None = None
    workload: str | None = None
    """``namespace/name``; the client's where the socket is the agent's."""
    cgroup_path: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    """What only this kind of event has, in the order in which it is shown."""


def from_probe(raw: Mapping[str, Any], capture_port: int) -> TraceEvent:
    """The probe's document as an event. BadEventError if it is none."""
    try:
        server = raw["side"] == "server"
        local, remote, asked = raw["local"], raw["remote"], raw["asked"]
        source, destination = (remote, local) if server else (local, remote)
        name, original = _named(raw, destination, capture_port)
        return TraceEvent(
            name=name, time_ns=checked_time(int(raw["time_ns"])), side=raw["side"],
            source=source, destination=destination, original=original if asked else None, socket=raw["socket"],
            netns=raw["netns"] or None, cgroup=raw["cgroup"], client_cgroup=raw["client_cgroup"], pid=raw["pid"],
            comm=raw["comm"], client_pid=raw["client_pid"], details=_details(name, raw),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise BadEventError(f"the probe's event is not understood ({error!r}): {raw!r:.200}") from error


def checked_time(time_ns: int) -> int:
    """The Unix time; ValueError if it is before 1970 or too late to be written."""
    if not 0 <= time_ns <= MAX_TIME_NS:
        raise ValueError(f"{time_ns} ns after 1970 is no time of an event")
    return time_ns


def _named(raw: Mapping[str, Any], destination: str | None, capture_port: int) -> tuple[str, str | None]:
    """The event's name and the original destination, if another."""
    name, asked = str(raw["event"]), raw["asked"]
    if name == "connect-failed":
        # a cgroup hook said no, before any packet: the mesh's (no listener, egress policy) or another program's
        refused = raw["error"] == errno.EPERM and raw["state"] == "close"
        return ("refused" if refused else name), None
    if not asked or asked == destination or _means_loopback(asked, destination):
        return name, None
    if name == "connect":
        name = "captured" if _captured(destination, capture_port) else "rewritten"
    return name, asked


def _captured(destination: str | None, capture_port: int) -> bool:
    return destination in (f"127.0.0.1:{capture_port}", f"[::1]:{capture_port}")


def _means_loopback(asked: str, destination: str | None) -> bool:
    """Connecting to 0.0.0.0 or :: is Linux's way to say this host; nobody rewrote anything."""
    host, _, port = asked.rpartition(":")
    return host in _ANY and (destination or "").rpartition(":")[2] == port


def _details(name: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    details: dict[str, Any] = {}
    if name in ("state", "accept"):
        details |= {"old_state": raw["old_state"], "state": raw["state"]}
    elif name in ("retransmit", "reset-sent", "reset-received"):
        details["state"] = raw["state"]
    for key in ("reason", "seconds", "bytes_sent", "bytes_received", "retransmits"):
        if raw.get(key) is not None:
            details[key] = raw[key]
    if raw["error"]:
        details["error"] = errno.errorcode.get(raw["error"], str(raw["error"]))
        details["text"] = os.strerror(raw["error"])
    if raw["client_pid"]:
        details["for_pid"] = raw["client_pid"]
    return details


def document(event: TraceEvent) -> dict[str, Any]:
    """The event as one JSON object; what is not known is null."""
    moment = datetime.fromtimestamp(event.time_ns // 1_000_000_000, UTC)
    return {
        "time": f"{moment:%Y-%m-%dT%H:%M:%S}.{event.time_ns % 1_000_000_000:09}Z",
        "event": event.name, "side": event.side, "workload": event.workload, "cgroup": event.cgroup_path,
        "cgroup_id": event.cgroup, "client_cgroup_id": event.client_cgroup, "pid": event.pid, "comm": event.comm,
        "source": event.source, "destination": event.destination, "original_destination": event.original,
        "socket": event.socket, "netns": event.netns, **event.details,
    }  # fmt: skip


def heading() -> str:
    """The line above all."""
    return COLUMNS.heading()


def line(event: TraceEvent, zone: tzinfo | None = None) -> str:
    """The event for people; times in the zone (None: this host's)."""
    moment = datetime.fromtimestamp(event.time_ns // 1_000_000_000, UTC).astimezone(zone)
    time = f"{moment:%H:%M:%S}.{event.time_ns % 1_000_000_000 // 1000:06}"
    process = f"{event.comm or '?'}/{event.pid}" if event.pid else None
    return COLUMNS.row((
        time, event.name, event.side, event.workload or event.cgroup_path, process, event.source, event.destination,
        event.original, _detail(event),
    ))  # fmt: skip


def _detail(event: TraceEvent) -> str:
    found = dict(event.details)
    parts = []
    if "old_state" in found:
        parts.append(f"{found.pop('old_state')} > {found.pop('state')}")
    elif "state" in found:
        parts.append(f"in {found.pop('state')}")
    if "seconds" in found:
        parts.append(f"after {found.pop('seconds'):.6f} s")
    parts += [f"{key}={value}" for key, value in found.items() if value not in (None, "", "-") and key != "text"]
    if found.get("text"):
        parts.append(f"({found['text']})")
    return " ".join(parts)
