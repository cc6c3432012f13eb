"""The order of runs and what a failure does, with systems and cases that only pretend."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench.cases import Case, Settings
from tests.bench.figures import RunError, Sample, Topology
from tests.bench.processes import Place
from tests.bench.rounds import Results, Rounds
from tests.bench.schedule import Progress, planned_s
from tests.bench.systems.base import App, Deployment, Entry

FAILS_AT_START = "fails-at-start"


class Pretended:
    """Up and down without a process; tells `events`."""

    def __init__(self, name: str, events: list[str], *, has_proxies: bool = True) -> None:
        self.name = name
        self.has_proxies = has_proxies
        self._events = events

    def version(self) -> str:
        return "0"

    @contextlib.contextmanager
    def deploy(self, topology: Topology, scratch: Path) -> Iterator[Deployment]:
        if self.name == FAILS_AT_START:
            raise RunError("no such thing")
        self._events.append(f"{self.name} up")
        try:
            yield Deployment(
                client=Place("none"),
                server=Place("none"),
                entries={App.HTTP: Entry(self.name, 1)},
                proxies=frozenset({1} if self.has_proxies else ()),
            )
        finally:
            self._events.append(f"{self.name} down")


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    happened: list[str] = []

    @contextlib.contextmanager
    def serving(app: App, place: Place, scratch: Path) -> Iterator[None]:
        yield

    monkeypatch.setattr("tests.bench.fleet.serving", serving)
    return happened


def _rounds(events: list[str], *systems: Pretended, runs: int = 3) -> Rounds:
    settings = Settings(seconds=4, runs=runs, idle_connections=10, soak_seconds=7, scratch=Path("/nowhere"))
    return Rounds(systems, settings, Results(), Progress(100.0, lambda: 0.0), lambda line: None)


def _sorted_ups(events: list[str], *unordered: str) -> list[str]:
    """Systems come up and go down at the same time: the order among them says nothing."""
    unordered = ("up", "down", *unordered)
    grouped = itertools.groupby(events, key=lambda event: event.rpartition(" ")[2])
    return [event for kind, group in grouped for event in (sorted(group) if kind in unordered else group)]


def _case(events: list[str], *, fresh: bool = False, metric: str = "rps", broken: str = "") -> Case:
    """`broken` names the system whose second run (warm-up included) fails."""
    count: dict[str, int] = {}

    def run(deployment: Deployment, settings: Settings, seconds: int) -> Sample:
        name = deployment.entries[App.HTTP].host
        count[name] = count.get(name, 0) + 1
        events.append(f"{name} {seconds}s")
        if name == broken and count[name] == 2:
            raise RunError("socket errors")
        return {metric: float(count[name])}

    return Case(name="http-keepalive-16", app=App.HTTP, metrics=frozenset({metric}), run=run, fresh=fresh)


def test_systems_take_turns_after_a_warm_up(events: list[str]) -> None:
    rounds = _rounds(events, Pretended("one", events), Pretended("two", events))
    rounds.run(Topology.SAME_NODE, [_case(events)])
    runs = ["one 4s", "two 4s"] * 3
    assert _sorted_ups(events) == ["one up", "two up", "one 1s", "two 1s", *runs, "one down", "two down"]
    assert [(row.system, row.median, row.runs) for row in rounds.results.rows] == [("one", 3.0, 3), ("two", 3.0, 3)]
    assert rounds.results.failures == []


def test_a_system_with_one_failed_run_has_no_row_and_does_not_run_on(events: list[str]) -> None:
    rounds = _rounds(events, Pretended("one", events), Pretended("two", events))
    rounds.run(Topology.SAME_NODE, [_case(events, broken="one")])
    assert [row.system for row in rounds.results.rows] == ["two"]
    assert rounds.results.failures == ["same-node http-keepalive-16 one (run 1/3): socket errors"]
    assert events.count("one 4s") == 1
    assert events.count("two 4s") == 3


def test_a_system_that_does_not_start_leaves_the_others_alone(events: list[str]) -> None:
    rounds = _rounds(events, Pretended(FAILS_AT_START, events), Pretended("two", events))
    rounds.run(Topology.CROSS_NODE, [_case(events), _case(events, fresh=True)])
    assert {row.system for row in rounds.results.rows} == {"two"}
    assert rounds.results.failures == [
        "cross-node: fails-at-start does not start: no such thing",
        "cross-node http-keepalive-16 (run 1/3): fails-at-start does not start: no such thing",
    ]


def test_a_fresh_case_deploys_for_every_run_and_runs_all_together(events: list[str]) -> None:
    rounds = _rounds(events, Pretended("one", events), Pretended("two", events), runs=2)
    rounds.run(Topology.SAME_NODE, [_case(events, fresh=True)])
    assert _sorted_ups(events, "4s") == ["one up", "two up", "one 4s", "two 4s", "one down", "two down"] * 2
    assert [(row.system, row.runs) for row in rounds.results.rows] == [("one", 2), ("two", 2)]


@pytest.mark.parametrize("fresh", [False, True])
def test_what_measures_proxies_leaves_out_a_system_without_any(events: list[str], fresh: bool) -> None:
    rounds = _rounds(events, Pretended("bare", events, has_proxies=False), Pretended("two", events))
    rounds.run(Topology.SAME_NODE, [_case(events, fresh=fresh, metric="kib_per_connection")])
    assert [row.system for row in rounds.results.rows] == ["two"]
    assert rounds.results.failures == []


def test_a_case_may_last_as_long_as_it_wants(events: list[str]) -> None:
    case = replace(_case(events), lasts=lambda settings: settings.soak_seconds)
    _rounds(events, Pretended("one", events), runs=1).run(Topology.SAME_NODE, [case])
    assert events == ["one up", "one 1s", "one 7s", "one down"]


def test_counted_errors_are_a_failure_and_a_figure(events: list[str]) -> None:
    def run(deployment: Deployment, settings: Settings, seconds: int) -> Sample:
        return {"rps": 1.0, "errors": 3.0 if deployment.entries[App.HTTP].host == "one" else 0.0}

    rounds = _rounds(events, Pretended("one", events), Pretended("two", events), runs=1)
    rounds.run(Topology.CROSS_NODE, [Case(name="soak", app=App.HTTP, metrics=frozenset({"rps", "errors"}), run=run)])
    assert rounds.results.failures == ["cross-node soak one (run 1/1): 3 errors, there must be none"]
    assert [(row.system, row.median) for row in rounds.results.rows if row.metric == "errors"] == [
        ("one", 3.0),
        ("two", 0.0),
    ]


def test_every_server_program_of_the_cases_is_started_once(
    events: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[App] = []

    @contextlib.contextmanager
    def serving(app: App, place: Place, scratch: Path) -> Iterator[None]:
        started.append(app)
        yield

    monkeypatch.setattr("tests.bench.fleet.serving", serving)
    cases = [_case(events), replace(_case(events), more_apps=frozenset({App.BULK}))]
    _rounds(events, Pretended("one", events), runs=1).run(Topology.SAME_NODE, cases)
    assert started == [App.HTTP, App.BULK] or started == [App.BULK, App.HTTP]


def test_everything_is_down_after_an_interruption(events: list[str]) -> None:
    def interrupted(deployment: Deployment, settings: Settings, seconds: int) -> Sample:
        raise SystemExit(130)

    rounds = _rounds(events, Pretended("one", events), Pretended("two", events))
    with pytest.raises(SystemExit):
        rounds.run(
            Topology.SAME_NODE, [Case(name="bulk", app=App.HTTP, metrics=frozenset({"gbit_s"}), run=interrupted)]
        )
    assert _sorted_ups(events) == ["one up", "two up", "one down", "two down"]
    assert rounds.results.rows == []


def test_each_line_tells_how_far_it_is(events: list[str]) -> None:
    said: list[str] = []
    case, one = _case(events), Pretended("one", events)
    rounds = _rounds(events, one, runs=2)
    progress = Progress(planned_s([Topology.SAME_NODE], [case], [one], rounds.settings), lambda: 0.0)
    replace(rounds, progress=progress, say=said.append).run(Topology.SAME_NODE, [case])
    assert said[0].startswith("[  0%, 11 seconds left] same-node: starting one")
    assert said[-1].startswith("[100%, 0 seconds left] same-node http-keepalive-16 one (run 2/2): rps ")
