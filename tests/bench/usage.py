"""CPU time and memory of process trees, of cgroups and of the machine, from /proc and from cgroup v2.

Where softirq goes: the work that a packet causes on loopback and veth runs in the context of whoever sent it, and a
kernel without CONFIG_IRQ_TIME_ACCOUNTING charges it to that task, hence to its cgroup. Under load a part moves to the
ksoftirqd threads, which are counted with the parties. With that option no task is charged: see `softirq_s` then.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.figures import RunError
from tests.bench.systems.base import Deployment

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PSS_FIELD = "Pss:"
KTHREADD = 2
"""Parent of every kernel thread."""

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
    name: str
    parent: int
    ticks: int
    """User and system time, of all its threads and of its children that ended and were waited for."""


def parse_stat(text: str) -> Stat:
    """One line of /proc/<pid>/stat; the command name may hold spaces and parentheses."""
    pid, _, rest = text.partition(" (")
    name, _, rest = rest.rpartition(") ")
    fields = rest.split()
    return Stat(pid=int(pid), name=name, parent=int(fields[1]), ticks=sum(int(value) for value in fields[11:15]))


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
    """CPU seconds of a run; filled when the run has ended."""

    proxies_s: float = field(default=0.0)
    """Of the proxies on both nodes, with their managers."""
    all_s: float = field(default=0.0)
    """Of all parties: proxies, control, client and server programs, the softirq charged to them, and ksoftirqd."""
    softirq_s: float = field(default=0.0)
    """Of softirq on the whole machine, whoever caused it, as the timer tick samples it."""


def parse_softirq(text: str) -> float:
    """Seconds of softirq, summed over the processors, in /proc/stat."""
    return int(text.split("\n", 1)[0].split()[7]) / TICKS_PER_S


def _softirq_seconds() -> float:
    return parse_softirq(Path("/proc/stat").read_text())


def _ksoftirqd_seconds() -> float:
    """CPU time of the threads that take softirq over when there is much of it."""
    threads = (stat for stat in _snapshot().values() if stat.parent == KTHREADD and stat.name.startswith("ksoftirqd/"))
    return sum(stat.ticks for stat in threads) / TICKS_PER_S


@contextlib.contextmanager
def measured(deployment: Deployment) -> Iterator[Cost]:
    """CPU time while the block runs.

    Fails when a proxy process ended meanwhile, and when the cgroups that hold exactly the proxies (none given: no
    check) counted clearly more or less.
    """
    cost = Cost()
    softirq, parties = _softirq_seconds(), _cgroup_seconds(deployment.parties) + _ksoftirqd_seconds()
    with _proxies_measured(cost, deployment.proxies, deployment.cgroups):
        yield cost
    cost.all_s = _cgroup_seconds(deployment.parties) + _ksoftirqd_seconds() - parties
    cost.softirq_s = _softirq_seconds() - softirq


@contextlib.contextmanager
def _proxies_measured(cost: Cost, roots: frozenset[int], cgroups: tuple[Path, ...]) -> Iterator[None]:
    before, held = _snapshot(), _cgroup_seconds(cgroups)
    pids = tree(roots, before)
    if roots - pids:
        raise RunError(f"proxy processes {sorted(roots - pids)} are gone before the run")
    yield
    after, held_after = _snapshot(), _cgroup_seconds(cgroups)
    if gone := pids - set(after):
        raise RunError(f"proxy processes {sorted(gone)} ended during the run")
    now = tree(roots, after)
    ticks = sum(after[pid].ticks for pid in now) - sum(before[pid].ticks for pid in pids)
    cost.proxies_s = ticks / TICKS_PER_S
    counted = held_after - held
    if cgroups and abs(counted - cost.proxies_s) > max(MIN_DISAGREEMENT_S, MAX_DISAGREEMENT * counted):
        raise RunError(
            f"/proc counts {cost.proxies_s:.2f} s of CPU for the proxies, their cgroup {counted:.2f} s: "
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
