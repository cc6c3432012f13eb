"""Runs the systems of a case in turn, so that a slow minute of the machine meets all of them alike."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field

from tests.bench.apps import serving
from tests.bench.cases import WARM_UP_S, Case, Settings
from tests.bench.figures import Row, RunError, Sample, Topology, summarise
from tests.bench.processes import tail
from tests.bench.sites import scratch
from tests.bench.systems.base import App, Deployment, System


@dataclass(slots=True)
class Results:
    """What the rounds gave. A system that failed in a case has a line in `failures` there, and no row."""

    rows: list[Row] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Rounds:
    """One invocation of the benchmark."""

    systems: Sequence[System]
    settings: Settings
    results: Results
    say: Callable[[str], None]
    """Told what happens, a line at a time."""

    def run(self, topology: Topology, cases: Sequence[Case]) -> None:
        """All cases of one topology. Systems stay up from case to case, except where a case wants them fresh."""
        steady = [case for case in cases if not case.fresh]
        if steady:
            with contextlib.ExitStack() as stack:
                deployments = self._deploy_all(stack, topology, {app for case in steady for app in case.apps})
                for case in steady:
                    self._case(topology, case, deployments)
        for case in cases:
            if case.fresh:
                self._fresh_case(topology, case)

    def _deploy_all(
        self,
        stack: contextlib.ExitStack,
        topology: Topology,
        apps: Set[App],
    ) -> dict[str, Deployment]:
        deployments = {}
        for system in self.systems:
            self.say(f"{topology}: starting {system.name}")
            try:
                deployments[system.name] = stack.enter_context(self._deployed(system, topology, apps))
            except RunError as failure:
                self._failed(f"{topology}: {system.name} does not start: {failure}")
        return deployments

    @contextlib.contextmanager
    def _deployed(self, system: System, topology: Topology, apps: Set[App]) -> Iterator[Deployment]:
        """The system with its server programs. Their files go last."""
        with contextlib.ExitStack() as stack:
            directory = stack.enter_context(scratch())
            deployment = stack.enter_context(system.deploy(topology, directory))
            for app in sorted(apps, key=lambda app: app.value):
                stack.enter_context(serving(app, deployment.server, directory))
            yield deployment

    def _case(self, topology: Topology, case: Case, deployments: dict[str, Deployment]) -> None:
        samples: dict[str, list[Sample]] = {}
        for name, deployment in deployments.items():
            if case.needs_proxies and not deployment.proxies:
                continue
            if self._attempt(f"{topology} {case.name} {name} (warm-up)", case, deployment, WARM_UP_S) is not None:
                samples[name] = []
        for number in range(1, self.settings.runs + 1):
            for name in list(samples):
                where = f"{topology} {case.name} {name} (run {number}/{self.settings.runs})"
                sample = self._attempt(where, case, deployments[name], case.lasts(self.settings))
                self._collect(samples, name, sample, where)
        self._summarise(topology, case, samples)

    def _fresh_case(self, topology: Topology, case: Case) -> None:
        samples: dict[str, list[Sample]] = {
            system.name: [] for system in self.systems if system.has_proxies or not case.needs_proxies
        }
        by_name = {system.name: system for system in self.systems}
        for number in range(1, self.settings.runs + 1):
            for name in list(samples):
                where = f"{topology} {case.name} {name} (run {number}/{self.settings.runs})"
                sample = None
                try:
                    with self._deployed(by_name[name], topology, case.apps) as deployment:
                        sample = self._attempt(where, case, deployment, case.lasts(self.settings))
                except RunError as failure:
                    self._failed(f"{where}: {failure}")
                    sample = None
                self._collect(samples, name, sample, where)
        self._summarise(topology, case, samples)

    def _attempt(self, where: str, case: Case, deployment: Deployment, seconds: int) -> Sample | None:
        try:
            return case.run(deployment, self.settings, seconds)
        except RunError as failure:
            logs = "".join(f"; {log.name}: {tail(log)}" for log in deployment.logs)
            self._failed(f"{where}: {failure}{logs}")
            return None

    def _collect(self, samples: dict[str, list[Sample]], name: str, sample: Sample | None, where: str) -> None:
        """A system with one failed run leaves the case: a median of the runs that went well would flatter it."""
        if sample is None:
            del samples[name]
            return
        samples[name].append(sample)
        if errors := sample.get("errors"):
            self._failed(f"{where}: {errors:.0f} errors, there must be none")
        self.say(f"{where}: " + ", ".join(f"{metric} {value:.2f}" for metric, value in sample.items()))

    def _summarise(self, topology: Topology, case: Case, samples: dict[str, list[Sample]]) -> None:
        for name, of_system in samples.items():
            self.results.rows.extend(summarise(topology, case.name, name, of_system))

    def _failed(self, line: str) -> None:
        self.results.failures.append(line)
        self.say(f"FAILED {line}")
