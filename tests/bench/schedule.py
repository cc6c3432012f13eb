"""How long a benchmark will take: said before it starts. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.bench.cases import WARM_UP_S, Case, Settings
from tests.bench.figures import Topology
from tests.bench.systems.base import System

START_S: Mapping[str, float] = {"direct": 0.5, "nodemesh": 6.0, "nodemesh-nosplice": 6.0}
"""Bringing a system with its server programs up and down again."""
OTHER_START_S = 1.5
AROUND_RUN_S = 0.4
"""Starting and reading a client program."""


def seconds(
    topologies: Sequence[Topology], cases: Sequence[Case], systems: Sequence[System], settings: Settings
) -> float:
    """An estimate, on a machine that does nothing else."""
    total = 0.0
    start = {system.name: START_S.get(system.name, OTHER_START_S) for system in systems}
    if any(not case.fresh for case in cases):
        total += sum(start.values())
    for case in cases:
        taking_part = [system for system in systems if system.has_proxies or not case.needs_proxies]
        run = case.lasts(settings) + AROUND_RUN_S
        if case.fresh:
            total += settings.runs * sum(start[system.name] + run for system in taking_part)
        else:
            total += len(taking_part) * (WARM_UP_S + AROUND_RUN_S + settings.runs * run)
    return total * len(topologies)


def sentence(
    topologies: Sequence[Topology], cases: Sequence[Case], systems: Sequence[System], settings: Settings
) -> str:
    """The estimate in words, with what it is made of and how to have less."""
    total = seconds(topologies, cases, systems, settings)
    span = f"{total / 60:.0f} minutes" if total >= 120 else f"{total:.0f} seconds"
    return (
        f"about {span}: {len(topologies)} topologies x {len(cases)} cases x {len(systems)} systems, "
        f"{settings.runs} runs of {settings.seconds} s each (soak {settings.soak_seconds} s); "
        "CASES, SYSTEMS, TOPOLOGIES, RUNS and SECONDS of `make bench` choose less"
    )
