"""CPU time and memory of process trees, from /proc and from cgroup v2."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.figures import RunError

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PSS_FIELD = "Pss:"

MAX_DISAGREEMENT = 0.1
"""Share by which cgroup and /proc may differ: more means that a process was missed."""
MIN_DISAGREEMENT_S = 0.1
"""Differences smaller than this are rounding (ticks of 10 ms in every process)."""

SETTLE_S = 0.3
SETTLE_SHARE = 0.005
MAX_SETTLE_S = 10.0


@dataclass(frozen=True, slots=True)
class Stat:
    """What the benchmark reads of /proc/<pid>/stat."""

    pid: int
    parent: int
    ticks: int
    """User and system time, of all its threads and of its children that ended and were waited for."""


def parse_stat(text: str) -> Stat:
    """One line of /proc/<pid>/stat; the command name may hold spaces and parentheses."""
    pid, _, rest = text.partition(" (")
    fields = rest.rpartition(") ")[2].split()
    return Stat(pid=int(pid), parent=int(fields[1]), ticks=sum(int(value) for value in fields[11:15]))


def tree(roots: Iterable[int], stats: Mapping[int, Stat]) -> frozenset[int]:
    """The roots and all their descendants among `stats`."""
    found = {pid for pid in roots if pid in stats}
    while more := {stat.pid for stat in stats.values() if stat.parent in found} - found:
        found |= more
    return frozenset(found)


def _snapshot() -> dict[int, Stat]:
    stats = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            stat = parse_stat(path.read_text())
            stats[stat.pid] = stat
    return stats


def _cgroup_seconds(cgroups: Iterable[Path]) -> float:
    total = 0
    for cgroup in cgroups:
        fields = dict(line.split() for line in (cgroup / "cpu.stat").read_text().splitlines())
        total += int(fields["usage_usec"])
    return total / 1e6


@dataclass(slots=True)
class Cost:
    """CPU seconds of the proxies during a run; filled when the run has ended."""

    cpu_s: float = field(default=0.0)


@contextlib.contextmanager
def measured(roots: Iterable[int], cgroups: Iterable[Path]) -> Iterator[Cost]:
    """CPU time of the trees under `roots` while the block runs.

    Fails when a proxy process ended meanwhile, and when the cgroups that hold exactly these processes (none given: no
    check) counted clearly more or less.
    """
    roots, cgroups, cost = frozenset(roots), tuple(cgroups), Cost()
    before, held = _snapshot(), _cgroup_seconds(cgroups)
    pids = tree(roots, before)
    if roots - pids:
        raise RunError(f"proxy processes {sorted(roots - pids)} are gone before the run")
    yield cost
    after, held_after = _snapshot(), _cgroup_seconds(cgroups)
    if gone := pids - set(after):
        raise RunError(f"proxy processes {sorted(gone)} ended during the run")
    now = tree(roots, after)
    ticks = sum(after[pid].ticks for pid in now) - sum(before[pid].ticks for pid in pids)
    cost.cpu_s = ticks / TICKS_PER_S
    counted = held_after - held
    if cgroups and abs(counted - cost.cpu_s) > max(MIN_DISAGREEMENT_S, MAX_DISAGREEMENT * counted):
        raise RunError(
            f"/proc counts {cost.cpu_s:.2f} s of CPU for the proxies, their cgroup {counted:.2f} s: "
            "a process is not counted"
        )


def pss_kib(roots: Iterable[int]) -> int:
    """Proportional set size of the trees, in KiB."""
    roots = frozenset(roots)
    pids = tree(roots, _snapshot())
    if roots - pids:
        raise RunError(f"proxy processes {sorted(roots - pids)} are gone")
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(PSS_FIELD):
                total += int(line.split()[1])
    return total


def settled_pss_kib(roots: Iterable[int]) -> int:
    """As `pss_kib`, once two readings in a row agree."""
    roots = frozenset(roots)
    deadline = time.monotonic() + MAX_SETTLE_S
    last = pss_kib(roots)
    while time.monotonic() < deadline:
        time.sleep(SETTLE_S)
        now = pss_kib(roots)
        if abs(now - last) <= SETTLE_SHARE * last:
            return now
        last = now
    raise RunError(f"the proxies' memory does not settle within {MAX_SETTLE_S:.0f} s; last {last} KiB")
