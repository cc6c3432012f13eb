"""What the mesh promises of its speed, and whether a run shows it. Pure: rows in, verdicts out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.bench.figures import HIGHER_IS_BETTER, Row, Topology

OURS = "nodemesh"
SAME, CROSS = Topology.SAME_NODE, Topology.CROSS_NODE
KEEPALIVE = ("http-keepalive-16", "http-keepalive-64")
BULK = ("bulk", "bulk-8")
ENVOYS = ("envoy", "envoy-hbone")
PEERS = (*ENVOYS, "haproxy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A bound on one figure of nodemesh; `metric` says whether from above or below."""

    topology: Topology
    case: str
    metric: str
    bound: float
    """Times the baseline; without one, in the metric's unit."""
    against: tuple[str, ...] = ()
    """Systems of which the best is the baseline; one that did not run is left out. Empty: no baseline."""

    @property
    def text(self) -> str:
        """Such as `<= 0.7 x envoy`."""
        sign = ">=" if self.metric in HIGHER_IS_BETTER else "<="
        if not self.against:
            return f"{sign} {self.bound:g}"
        name = self.against[0] if len(self.against) == 1 else f"the better of {', '.join(self.against)}"
        return f"{sign} {self.bound:g} x {name}"


def _targets() -> Iterator[Target]:
    for case in BULK:
        yield Target(topology=SAME, case=case, metric="gbit_s", bound=2.0, against=("direct",))
    yield Target(topology=SAME, case="echo-rtt", metric="p50_us", bound=0.85, against=("direct",))
    for case in KEEPALIVE:
        yield Target(topology=SAME, case=case, metric="rps", bound=0.95, against=("direct",))
    for case in KEEPALIVE:
        for peer in PEERS:
            bound = 0.7 if peer in ENVOYS else 0.8
            yield Target(topology=CROSS, case=case, metric="cpu_us_per_op", bound=bound, against=(peer,))
        for peer in PEERS:
            yield Target(topology=CROSS, case=case, metric="p99_us", bound=1.0, against=(peer,))
    for case in BULK:
        yield Target(topology=CROSS, case=case, metric="cpu_s_per_gb", bound=1.0, against=PEERS)
    for peer in ENVOYS:
        yield Target(topology=CROSS, case="new-connections", metric="cpu_us_per_op", bound=0.5, against=(peer,))
    for topology in Topology:
        yield Target(topology=topology, case="idle-memory", metric="kib_per_connection", bound=30.0)


TARGETS: Sequence[Target] = tuple(_targets())
"""All of them, in the order in which they are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A target beside what was measured."""

    target: Target
    ours: float
    baseline: float | None
    """None where the target has none."""

    @property
    def measured(self) -> float:
        """What the bound is a bound of."""
        return self.ours if self.baseline is None else self.ours / self.baseline

    @property
    def met(self) -> bool:
        if self.target.metric in HIGHER_IS_BETTER:
            return self.measured >= self.target.bound
        return self.measured <= self.target.bound


def judge(rows: Sequence[Row], targets: Sequence[Target] = TARGETS) -> list[Verdict]:
    """A verdict on every target whose figures are all there, in order."""
    medians = {(row.topology, row.case, row.metric, row.system): row.median for row in rows}
    found = (_judge(medians, target) for target in targets)
    return [verdict for verdict in found if verdict is not None]


def _judge(medians: Mapping[tuple[str, str, str, str], float], target: Target) -> Verdict | None:
    def of(system: str) -> float | None:
        return medians.get((target.topology.value, target.case, target.metric, system))

    ours = of(OURS)
    if ours is None:
        return None
    if not target.against:
        return Verdict(target=target, ours=ours, baseline=None)
    theirs = [value for value in map(of, target.against) if value]
    if not theirs:
        return None
    best = max(theirs) if target.metric in HIGHER_IS_BETTER else min(theirs)
    return Verdict(target=target, ours=ours, baseline=best)


def summary(verdicts: Sequence[Verdict], targets: Sequence[Target] = TARGETS) -> str:
    """One line: how many targets are met, and how many this run says nothing about."""
    met = sum(verdict.met for verdict in verdicts)
    rest = len(targets) - len(verdicts)
    return f"{met} of {len(verdicts)} met" + (f"; {rest} more not measured in this run" if rest else "")
