"""How long a benchmark will take: said before it starts, and how much of it is left. Pure: the clock is passed in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.bench.cases import WARM_UP_S, Case, Settings
from tests.bench.figures import Topology
from tests.bench.systems.base import System

START_S: Mapping[str, float] = {"direct": 0.3, "nodemesh": 4.0, "nodemesh-nosplice": 4.0}
"""What a system with its server programs adds to the time in which all of them come up and go down again."""
OTHER_START_S = 0.7
AROUND_RUN_S = 0.4
"""Starting and reading a client program."""
ENOUGH_TO_JUDGE = 0.03
"""Share of the plan after which the pace so far says more than the plan."""


def start_s(systems: Sequence[System]) -> float:
    """Bringing all of these up, and down again."""
    return sum(START_S.get(system.name, OTHER_START_S) for system in systems)


def run_s(seconds: int) -> float:
    """One run of that many seconds."""
    return seconds + AROUND_RUN_S


def planned_s(
    topologies: Sequence[Topology], cases: Sequence[Case], systems: Sequence[System], settings: Settings
) -> float:
    """An estimate, on a machine that does nothing else."""
    total = 0.0
    if any(not case.fresh for case in cases):
        total += start_s(systems)
    for case in cases:
        taking_part = [system for system in systems if case.wants(system)]
        runs = settings.runs * run_s(case.lasts(settings))
        if case.fresh:
            total += settings.runs * start_s(taking_part) + runs
        else:
            total += len(taking_part) * (run_s(WARM_UP_S) + runs)
    return total * len(topologies)


def span(seconds: float) -> str:
    """A length of time in words."""
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"


def sentence(
    topologies: Sequence[Topology], cases: Sequence[Case], systems: Sequence[System], settings: Settings
) -> str:
    """The estimate in words, with what it is made of and how to have less."""
    total = planned_s(topologies, cases, systems, settings)
    return (
        f"about {span(total)}: {len(topologies)} topologies x {len(cases)} cases x {len(systems)} systems, "
        f"{settings.runs} runs of up to {settings.seconds} s each (soak {settings.soak_seconds} s); "
        "CASES, SYSTEMS, TOPOLOGIES, RUNS and SECONDS of `make bench` choose less"
    )


@dataclass(slots=True)
class Progress:
    """How far a benchmark is, by its plan and by the pace so far."""

    planned_s: float
    clock: Callable[[], float]
    """Seconds."""
    began: float = field(init=False)
    done_s: float = 0.0
    """Of the plan."""

    def __post_init__(self) -> None:
        self.began = self.clock()

    def done(self, planned: float) -> None:
        """A part that was planned to take so many seconds is over."""
        self.done_s += planned

    def left_s(self) -> float:
        """An estimate of what remains."""
        pace = 1.0
        if self.done_s > ENOUGH_TO_JUDGE * self.planned_s:
            pace = self.spent_s() / self.done_s
        return max(0.0, self.planned_s - self.done_s) * pace

    def spent_s(self) -> float:
        """Since the beginning."""
        return self.clock() - self.began

    def text(self) -> str:
        """Percent done and time left."""
        share = min(1.0, self.done_s / self.planned_s) if self.planned_s else 1.0
        return f"{share:4.0%}, {span(self.left_s())} left"
