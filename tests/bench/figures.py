"""Samples of single runs and the rows they become. Pure: no I/O, no clock."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Topology(StrEnum):
    """Where client and server run: in one network namespace, or in two joined by a veth."""

    SAME_NODE = "same-node"
    CROSS_NODE = "cross-node"


UNITS: Mapping[str, str] = {
    "rps": "1/s",
    "p50_us": "us",
    "p99_us": "us",
    "cpu_us_per_op": "us",
    "cpu_all_us_per_op": "us",
    "softirq_us_per_op": "us",
    "gbit_s": "Gbit/s",
    "cpu_s_per_gb": "s/GB",
    "cpu_all_s_per_gb": "s/GB",
    "softirq_s_per_gb": "s/GB",
    "kib_per_connection": "KiB",
    "errors": "1",
}
"""Every metric with its unit. A gigabyte is 10^9 bytes. CPU is user and system time, counted in three ways:

- `cpu_…`: of the proxies alone (`usage.Cost.proxies_s`);
- `cpu_all_…`: of all parties, client and server program, proxies and control (`usage.Cost.all_s`);
- `softirq_…`: of the whole machine in softirq, most of it a part of `cpu_all_…` (`usage.Cost.softirq_s`).
"""

PROXY_METRICS = frozenset({"cpu_us_per_op", "cpu_s_per_gb", "kib_per_connection"})
"""Of the proxies alone: a system without any has none of these."""

HIGHER_IS_BETTER = frozenset({"rps", "gbit_s"})

Sample = Mapping[str, float]
"""One run's figures by metric."""


class RunError(Exception):
    """A run, or the deployment for it, gave nothing that may be reported; the text says what went wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One metric of one system in one case: the median of `runs` runs, and their extremes."""

    topology: str
    case: str
    system: str
    metric: str
    unit: str
    median: float
    min: float
    max: float
    runs: int


def summarise(topology: Topology, case: str, system: str, samples: Sequence[Sample]) -> list[Row]:
    """Rows of one system in one case, in the order of `UNITS`.

    Every sample must hold the same known metrics with finite values: a metric that only some runs gave is a fault of
    the benchmark, and a median over it would compare different things.
    """
    if not samples:
        raise ValueError(f"{topology} {case} {system}: no samples to summarise")
    metrics = set(samples[0])
    if unknown := metrics - set(UNITS):
        raise ValueError(f"{case}: unknown metrics {sorted(unknown)}")
    for sample in samples:
        if set(sample) != metrics:
            raise ValueError(f"{case} {system}: runs gave different metrics, {sorted(metrics)} and {sorted(sample)}")
        if not all(math.isfinite(value) for value in sample.values()):
            raise ValueError(f"{case} {system}: not a finite figure in {dict(sample)}")
    rows = []
    for metric in (name for name in UNITS if name in metrics):
        values = [sample[metric] for sample in samples]
        rows.append(
            Row(
                topology=topology.value,
                case=case,
                system=system,
                metric=metric,
                unit=UNITS[metric],
                median=statistics.median(values),
                min=min(values),
                max=max(values),
                runs=len(values),
            )
        )
    return rows
