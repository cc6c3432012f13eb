"""The verb: what is in the way, what is asked for, then lines until it is enough."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nodeagent.capture.cgroups import cgroup2_mount
from nodeagent.config import Config
from nodeagent.loader import abi
from nodeagent.loader.errors import LoaderError
from nodeagent.loader.maps import Counters, Flows
from nodeagent.loader.pins import instance_path, map_pin
from nodeagent.trace import names
from nodeagent.trace.decisions import AccessLogTail, concerns
from nodeagent.trace.events import TraceEvent, document, from_probe, heading, line
from nodeagent.trace.tracer import Order, Tracer

POLL_SECONDS: Final = 0.2
REFRESH_SECONDS: Final = 1.0
"""How often the agent is asked which cgroups its workloads have now."""
_C_STRING = re.compile(r"[\w./@+-]+\Z", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the operator asked for; None: no limit."""

    workload: str | None = None
    port: int | None = None
    seconds: float | None = None
    count: int | None = None
    as_json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceContext:
    """Who answers and who listens."""

    workloads: Callable[[], Sequence[Mapping[str, Any]]]
    """The agent's answer about the workloads of this node; OSError or ValueError if there is none."""
    write: Callable[[str], None]
    """A line of the trace."""
    note: Callable[[str], None]
    """What is about the trace, not in it."""


class Trace:
    """One run of the verb."""

    def __init__(self, python: str, config: Config, wishes: Wishes, around: TraceContext) -> None:
        """``python`` has BCC. NoWorkloadError, CgroupError, or what ``workloads`` raises if a workload is asked for."""
        self._python, self._config, self._wishes, self._around = python, config, wishes, around
        mount = cgroup2_mount(Path("/proc/self/mounts").read_text())
        self._names = names.WorkloadNames(lambda: names.scan(mount))
        self._workload: str | None = None
        try:
            found = around.workloads()
        except (OSError, ValueError):
            if wishes.workload is not None:
                raise
            around.note("no agent answers: cgroups are shown by their paths")
            found = []
        if wishes.workload is not None:
            self._workload = names.choose(wishes.workload, found)
        self._names.refresh(names.enrolled_cgroups(found))
        path = config.access_log
        self._log = AccessLogTail(Path(path)) if path.startswith("/") else None
        self._written = 0

    def run(self) -> None:
        """Trace until the wishes are met or KeyboardInterrupt. CannotTraceError."""
        before = self._counters()
        with Tracer(self._python, self._order()) as tracer:
            self._tell_limits(tracer)
            with contextlib.suppress(KeyboardInterrupt):  # how an operator says: enough
                self._follow(tracer)
        self._summary(tracer, before)

    def _order(self) -> Order:
        pin, entries = self._flow_records()
        cgroups = None if self._workload is None else self._names.cgroups_of(self._workload)
        ports, port = self._config.ports, self._wishes.port
        return Order(ports.outbound, None if port == ports.admin else ports.admin, port, cgroups, pin, entries)

    def _tell_limits(self, tracer: Tracer) -> None:
        note = self._around.note
        if tracer.missing:
            note(f"this kernel has no tracepoint {', '.join(tracer.missing)}: those events are not shown")
        if self._log is None:
            note(
                "the agent's own decisions are in its access log, which is no file here (setting access_log); "
                "'nodeagent flows' shows what lives"
            )
        note("tracing; Ctrl-C ends it")
        if not self._wishes.as_json:
            self._around.write(heading())

    def _follow(self, tracer: Tracer) -> None:
        start = refreshed = time.monotonic()
        while not self._enough():
            now = time.monotonic()
            left = POLL_SECONDS if self._wishes.seconds is None else start + self._wishes.seconds - now
            if left <= 0:
                return
            for raw in tracer.events(min(left, POLL_SECONDS)):
                self._show(from_probe(raw, self._config.ports.outbound))
                if self._enough():
                    return
            self._show_decisions()
            if now - refreshed >= REFRESH_SECONDS:
                refreshed = now
                self._refresh(tracer)

    def _enough(self) -> bool:
        return self._wishes.count is not None and self._written >= self._wishes.count

    def _show(self, event: TraceEvent) -> None:
        named = self._names.name(event)
        text = json.dumps(document(named), ensure_ascii=False) if self._wishes.as_json else line(named)
        self._around.write(text)
        self._written += 1

    def _show_decisions(self) -> None:
        for event in self._log.read() if self._log is not None else ():
            if not self._enough() and concerns(event, self._workload, self._wishes.port):
                self._show(event)

    def _refresh(self, tracer: Tracer) -> None:
        try:
            enrolled = names.enrolled_cgroups(self._around.workloads())
        except (OSError, ValueError, KeyError, TypeError):  # what was true a second ago is the best guess
            return
        self._names.refresh(enrolled)
        if self._workload is not None:
            tracer.narrow(self._names.cgroups_of(self._workload))

    def _flow_records(self) -> tuple[str | None, int]:
        """The pin and capacity of the agent's flow records, which say what a captured connection was meant for."""
        try:
            pin_dir = instance_path(self._config.bpffs, self._config.instance)
            flows = Flows(pin_dir)
        except LoaderError as error:
            self._around.note(f"what connections at the agent's port were meant for is not shown: {error}")
            return None, 0
        pin, entries = str(map_pin(pin_dir, abi.FLOW_MAP)), flows.capacity
        flows.close()
        if not _C_STRING.match(pin):
            self._around.note(
                f"what connections at the agent's port were meant for is not shown: BCC cannot open {pin}"
            )
            return None, 0
        return pin, entries

    def _counters(self) -> dict[str, int]:
        """The kernel's decisions so far; none if no agent has loaded its programs."""
        try:
            counters = Counters(instance_path(self._config.bpffs, self._config.instance))
        except LoaderError:
            return {}
        try:
            return counters.read()
        except LoaderError:
            return {}
        finally:
            counters.close()

    def _summary(self, tracer: Tracer, before: Mapping[str, int]) -> None:
        """On this whole node, whatever the trace was narrowed to."""
        after = self._counters()
        changes = [
            f"{name} {count - before.get(name, 0)}" for name, count in after.items() if count > before.get(name, 0)
        ]
        note = self._around.note
        note(f"{self._written} events")
        if tracer.lost:
            note(f"{tracer.lost} more were lost: narrow the trace with --workload or --port")
        if changes:
            note(f"what the agent's programs did on this node meanwhile: {', '.join(changes)}")
