"""Tells of workloads that leave the mesh, and of those that were kept from it: metrics, access log, ``status``.

The kernel decides, counts and notes (also while no agent runs); here it is only read.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from control.wire.discovery import EgressMode, Workload
from nodeagent.capture.egress import Refused, Times
from nodeagent.loader.egress import EgressCounts
from nodeagent.reasons import Reason
from nodeagent.state.view import NodeState
from nodeagent.telemetry.accesslog import Log, NoLog
from nodeagent.telemetry.flow import FlowRecord, Reporter
from nodeagent.telemetry.metrics import ERRORS
from nodeagent.telemetry.samples import CounterSample

LOOK_SECONDS = 1.0
"""What was refused is in the access log after at most this, a line for each destination."""
MAX_LINES = 10
"""Of one workload, each time; further destinations are one line together."""
MAX_SHOWN = 20
"""Destinations in ``status``, the most recent first."""
METRIC = "nodemesh_egress_total"

logger = logging.getLogger(__name__)

Name = tuple[str, str]
"""Namespace and name of a workload; of a cgroup that is nobody's, twice ``unknown``."""
UNKNOWN: Name = ("unknown", "unknown")


class Counting(Protocol):
    """What is used of ``capture.egress.EgressTable``."""

    def counts(self, cgroup_id: int) -> EgressCounts:
        """Of one cgroup."""

    def keep_only(self, cgroups: Iterable[int]) -> None:
        """Forget the counts of all others."""

    def remove(self, cgroup_id: int) -> None:
        """Forget the counts of one."""

    def refused(self) -> dict[Refused, Times]:
        """What was refused lately."""

    def close(self) -> None:
        """Let go."""


class Egress:
    """One per manager. ``open_log`` opens the access log (OSError if it cannot be)."""

    def __init__(self, table: Counting, state: NodeState, node: str, open_log: Callable[[], Log]) -> None:
        self._table = table
        self._state = state
        self._node = node
        self._open_log = open_log
        self._log: Log | None = None
        self._cgroups: dict[int, str] | None = None
        self._counts: dict[int, EgressCounts] = {}
        self._totals: dict[Name, Counter[str]] = {}
        self._errors = 0
        # what an earlier agent told of already
        self._told = {item: times.number for item, times in table.refused().items()}

    def enrolled(self, cgroups: Mapping[int, str]) -> None:
        """These are the workloads' cgroups now (id -> uid)."""
        if self._cgroups is None:
            self._table.keep_only(cgroups)
            self._counts = {cgroup: self._table.counts(cgroup) for cgroup in cgroups}
            for cgroup, uid in cgroups.items():
                self._add(_name(self._state.workload(uid)), self._counts[cgroup])
        else:
            for cgroup in self._cgroups.keys() - cgroups.keys():
                self._count(cgroup)
                self._table.remove(cgroup)
                self._counts.pop(cgroup, None)
            for name in [name for name in self._totals if name != UNKNOWN]:
                if self._state.by_namespace_name(*name) is None:
                    del self._totals[name]
        self._cgroups = dict(cgroups)

    def step(self) -> None:
        """Bring the counts up to now, and write lines about what was refused since the last step."""
        for cgroup in self._cgroups or {}:
            self._count(cgroup)
        refused = self._table.refused()
        fresh: dict[str, list[tuple[Refused, int, int]]] = {}
        for item, times in refused.items():
            before = self._told.get(item, 0)
            more = times.number - before if times.number >= before else times.number  # forgotten meanwhile, noted anew
            if more:
                fresh.setdefault(self._owner(item.cgroup_id), []).append((item, more, times.pid))
        self._told = {item: times.number for item, times in refused.items()}
        for uid, items in fresh.items():
            self._tell(self._state.workload(uid), items)

    def samples(self) -> list[CounterSample]:
        """Of each workload that left the mesh or wanted to, and the errors among them."""
        for cgroup in self._cgroups or {}:
            self._count(cgroup)
        found = []
        for (namespace, name), counts in self._totals.items():
            labels = {"source_workload": name, "source_workload_namespace": namespace}
            for field in EgressCounts._fields:
                protocol, _, outcome = field.partition("_")
                said = {**labels, "protocol": protocol, "outcome": outcome}
                found.append(CounterSample(name=METRIC, labels=said, value=counts[field]))
        if self._errors:
            reason = Reason.EGRESS_REFUSED
            labels = {"reason": reason.code, "fault": reason.value.fault.value}
            found.append(CounterSample(name=ERRORS, labels=labels, value=self._errors))
        return found

    def document(self) -> dict[str, Any]:
        """For operators: whose egress is confined, and what was refused lately."""
        local = self._state.local_workloads(self._node)
        confined = sorted(w.uid for w in local if w.egress_mode is not EgressMode.ALLOW_ANY)
        latest = sorted(self._table.refused().items(), key=lambda item: item[1].seconds)[:MAX_SHOWN]
        return {
            "confined": confined,
            "refused": [
                {
                    "workload": workload.uid if (workload := self._workload(item.cgroup_id)) is not None else "",
                    "protocol": item.protocol,
                    "destination": str(item.destination) if item.destination is not None else "(any)",
                    "count": times.number,
                    "pid": times.pid,
                    "seconds": round(times.seconds, 1),
                }
                for item, times in latest
            ],
        }

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.step()
            await asyncio.sleep(LOOK_SECONDS)

    def close(self) -> None:
        """Write what is pending, let go; the kernel goes on."""
        if self._log is not None:
            self._log.close()
        self._table.close()

    def _owner(self, cgroup: int) -> str:
        """uid of the workload; empty for a cgroup that is nobody's."""
        return (self._cgroups or {}).get(cgroup, "")

    def _workload(self, cgroup: int) -> Workload | None:
        return self._state.workload(self._owner(cgroup))

    def _count(self, cgroup: int) -> None:
        now, before = self._table.counts(cgroup), self._counts.get(cgroup, EgressCounts())
        if now == before:
            return
        grown = EgressCounts(*(max(0, new - old) for new, old in zip(now, before, strict=True)))
        self._counts[cgroup] = now
        self._add(_name(self._workload(cgroup)), grown)
        self._errors += grown.tcp_refused + grown.udp_refused + grown.other_refused

    def _add(self, name: Name, counts: EgressCounts) -> None:
        self._totals.setdefault(name, Counter()).update(counts._asdict())

    def _tell(self, workload: Workload | None, items: list[tuple[Refused, int, int]]) -> None:
        for item, times, pid in items[:MAX_LINES]:
            what = item.protocol if item.destination is not None else f"a socket of {item.protocol}"
            by = f", the last by process {pid}" if pid else ""
            self._write(workload, item, f"{what}, {times} times{by}" if times > 1 else f"{what}{by}")
        if len(items) > MAX_LINES:
            more = items[MAX_LINES:]
            text = f"{sum(times for _, times, _ in more)} times, at {len(more)} further destinations"
            self._write(workload, None, text)

    def _write(self, workload: Workload | None, item: Refused | None, detail: str) -> None:
        if self._log is None:
            try:
                self._log = self._open_log()
            except OSError as error:
                logger.error("the access log cannot be opened (%s): what egress policies refuse is not in it", error)
                self._log = NoLog()
        record = FlowRecord.begin(
            _KEEPER, Reporter.SOURCE, (workload, None), (None, item.destination if item is not None else None)
        )
        self._log.write(record.refused(Reason.EGRESS_REFUSED, detail))


class _Keeper:
    """What the kernel refused was no flow: it has no number."""

    def next_id(self) -> int:
        """Always 0."""
        return 0

    def now(self) -> float:
        """Wall clock, seconds since 1970."""
        return time.time()


_KEEPER: Final = _Keeper()


def _name(workload: Workload | None) -> Name:
    return (workload.namespace, workload.name) if workload is not None else UNKNOWN
