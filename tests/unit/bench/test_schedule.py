from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.cases import Settings
from tests.bench.catalogue import CASES
from tests.bench.figures import Topology
from tests.bench.schedule import seconds, sentence
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
    assert seconds(BOTH, [case], EVERYONE, SETTINGS) > len(BOTH) * len(EVERYONE) * SETTINGS.runs * SETTINGS.seconds


@pytest.mark.parametrize(
    "more",
    [_with(runs=6), _with(seconds=5), _with(idle_connections=5000 * 2), _with(soak_seconds=60)],
    ids=["runs", "seconds", "connections", "soak"],
)
def test_more_takes_longer(more: Settings) -> None:
    assert seconds(BOTH, ALL, EVERYONE, more) > seconds(BOTH, ALL, EVERYONE, SETTINGS)


def test_a_topology_a_case_or_a_system_less_is_quicker() -> None:
    whole = seconds(BOTH, ALL, EVERYONE, SETTINGS)
    assert seconds(BOTH[:1], ALL, EVERYONE, SETTINGS) == whole / 2
    assert seconds(BOTH, ALL[1:], EVERYONE, SETTINGS) < whole
    assert seconds(BOTH, ALL, EVERYONE[1:], SETTINGS) < whole


def test_who_takes_no_part_takes_no_time() -> None:
    idle = [CASES["idle-memory"]]
    proxied = [system for system in EVERYONE if system.has_proxies]
    assert seconds(BOTH, idle, EVERYONE, SETTINGS) == seconds(BOTH, idle, proxied, SETTINGS)


def test_it_is_said_in_minutes_or_seconds() -> None:
    assert sentence(BOTH, ALL, EVERYONE, SETTINGS).split(":")[0].endswith(" minutes")
    direct = [SYSTEMS["direct"]]
    text = sentence(BOTH[:1], [CASES["echo-rtt"]], direct, _with(runs=1, seconds=1))
    assert text.startswith("about 3 seconds: 1 topologies x 1 cases x 1 systems, 1 runs of 1 s each")
