from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.cases import Settings
from tests.bench.catalogue import CASES
from tests.bench.figures import Topology
from tests.bench.schedule import Progress, planned_s, sentence
from tests.bench.systems.registry import SYSTEMS

SETTINGS = Settings(seconds=4, runs=5, idle_connections=5000, soak_seconds=10, scratch=Path("/nowhere"))
BOTH = list(Topology)
ALL = list(CASES.values())
EVERYONE = list(SYSTEMS.values())


def _with(**changes: int) -> Settings:
    values = {"seconds": 4, "runs": 5, "idle_connections": 5000, "soak_seconds": 10, **changes}
    return Settings(scratch=Path("/nowhere"), **values)


def test_it_is_no_less_than_the_runs_themselves() -> None:
    case = CASES["bulk"]
    assert planned_s(BOTH, [case], EVERYONE, SETTINGS) > len(BOTH) * len(EVERYONE) * SETTINGS.runs * case.lasts(
        SETTINGS
    )


@pytest.mark.parametrize(
    "more",
    [_with(runs=6), _with(seconds=5), _with(idle_connections=5000 * 2), _with(soak_seconds=60)],
    ids=["runs", "seconds", "connections", "soak"],
)
def test_more_takes_longer(more: Settings) -> None:
    assert planned_s(BOTH, ALL, EVERYONE, more) > planned_s(BOTH, ALL, EVERYONE, SETTINGS)


def test_a_topology_a_case_or_a_system_less_is_quicker() -> None:
    whole = planned_s(BOTH, ALL, EVERYONE, SETTINGS)
    assert planned_s(BOTH[:1], ALL, EVERYONE, SETTINGS) == whole / 2
    assert planned_s(BOTH, ALL[1:], EVERYONE, SETTINGS) < whole
    assert planned_s(BOTH, ALL, EVERYONE[1:], SETTINGS) < whole


def test_who_takes_no_part_takes_no_time() -> None:
    idle = [CASES["idle-memory"]]
    proxied = [system for system in EVERYONE if system.has_proxies]
    assert planned_s(BOTH, idle, EVERYONE, SETTINGS) == planned_s(BOTH, idle, proxied, SETTINGS)


def test_it_is_said_in_minutes_or_seconds() -> None:
    assert sentence(BOTH, ALL, EVERYONE, SETTINGS).split(":")[0].endswith(" minutes")
    direct = [SYSTEMS["direct"]]
    text = sentence(BOTH[:1], [CASES["echo-rtt"]], direct, _with(runs=1, seconds=1))
    assert text.startswith("about 3 seconds: 1 topologies x 1 cases x 1 systems, 1 runs of up to 1 s each")


def test_what_is_left_follows_the_plan_and_then_the_pace() -> None:
    now = [100.0]
    progress = Progress(600.0, lambda: now[0])
    assert progress.text() == "  0%, 10 minutes left"
    now[0] += 5
    progress.done(1)
    assert progress.left_s() == 599
    progress.done(299)
    now[0] += 595
    assert progress.text() == " 50%, 10 minutes left"
    progress.done(400)
    assert progress.text() == "100%, 0 seconds left"
    assert progress.spent_s() == 600
