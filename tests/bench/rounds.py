"""Runs the systems of a case in turn, so that a slow minute of the machine meets all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tests.bench.cases import WARM_UP_S, Case, Settings
from tests.bench.figures import Row, RunError, Sample, Topology, summarise
from tests.bench.fleet import fleet
from tests.bench.processes import tail
from tests.bench.schedule import Progress, run_s, start_s
from tests.bench.systems.base import Deployment, System


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
    progress: Progress
    say: Callable[[str], None]
    """Told what happens, a line at a time."""

    def run(self, topology: Topology, cases: Sequence[Case]) -> None:
        """All cases of one topology. Systems stay up from case to case, except where a case wants them fresh."""
        steady = [case for case in cases if not case.fresh]
        if steady:
            self._say(f"{topology}: starting {', '.join(system.name for system in self.systems)}")
            with fleet(topology, self.systems, {app for case in steady for app in case.apps}) as up:
                self._started(str(topology), self.systems, up.failures)
                for case in steady:
                    self._case(topology, case, up.deployments)
        for case in cases:
            if case.fresh:
                self._fresh_case(topology, case)

    def _case(self, topology: Topology, case: Case, deployments: dict[str, Deployment]) -> None:
        samples: dict[str, list[Sample]] = {}
        wanted = {system.name for system in self.systems if case.wants(system)}
        for name, deployment in deployments.items():
            if name not in wanted:
                continue
            where = f"{topology} {case.name} {name} (warm-up)"
            if self._attempt(where, case, deployment, WARM_UP_S) is not None:
                samples[name] = []
            self.progress.done(run_s(WARM_UP_S))
        for number in range(1, self.settings.runs + 1):
            self._round(topology, case, number, deployments, samples)
        self._summarise(topology, case, samples)

    def _fresh_case(self, topology: Topology, case: Case) -> None:
        systems = [system for system in self.systems if case.wants(system)]
        samples: dict[str, list[Sample]] = {system.name: [] for system in systems}
        for number in range(1, self.settings.runs + 1):
            left = [system for system in systems if system.name in samples]
            # A signal takes the fleet down first, which ends the runs: nobody waits for them.
            with ThreadPoolExecutor(max(1, len(left))) as pool, fleet(topology, left, case.apps) as up:
                where = f"{topology} {case.name} (run {number}/{self.settings.runs})"
                self._started(where, left, up.failures)
                samples = {name: found for name, found in samples.items() if name in up.deployments}
                self._together(pool, topology, case, number, up.deployments, samples)
        self._summarise(topology, case, samples)

    def _together(
        self,
        pool: ThreadPoolExecutor,
        topology: Topology,
        case: Case,
        number: int,
        deployments: dict[str, Deployment],
        samples: dict[str, list[Sample]],
    ) -> None:
        """One run of each system that is still in, all at the same time."""
        seconds = case.lasts(self.settings)
        where = {name: f"{topology} {case.name} {name} (run {number}/{self.settings.runs})" for name in samples}
        running = {name: pool.submit(self._attempt, where[name], case, deployments[name], seconds) for name in samples}
        for name, future in running.items():
            sample = future.result()
            self.progress.done(run_s(seconds) / len(running))
            self._collect(samples, name, sample, where[name])

    def _round(
        self,
        topology: Topology,
        case: Case,
        number: int,
        deployments: dict[str, Deployment],
        samples: dict[str, list[Sample]],
    ) -> None:
        """One run of each system that is still in."""
        seconds = case.lasts(self.settings)
        for name in list(samples):
            where = f"{topology} {case.name} {name} (run {number}/{self.settings.runs})"
            sample = self._attempt(where, case, deployments[name], seconds)
            self.progress.done(run_s(seconds))
            self._collect(samples, name, sample, where)

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
        self._say(f"{where}: " + ", ".join(f"{metric} {value:.2f}" for metric, value in sample.items()))

    def _started(self, where: str, systems: Sequence[System], failures: Sequence[str]) -> None:
        self.progress.done(start_s(systems))
        for failure in failures:
            self._failed(f"{where}: {failure}")

    def _summarise(self, topology: Topology, case: Case, samples: dict[str, list[Sample]]) -> None:
        for name, of_system in samples.items():
            self.results.rows.extend(summarise(topology, case.name, name, of_system))

    def _failed(self, line: str) -> None:
        self.results.failures.append(line)
        self._say(f"FAILED {line}")

    def _say(self, line: str) -> None:
        self.say(f"[{self.progress.text()}] {line}")
