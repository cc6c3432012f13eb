"""The command line: picks cases and systems, runs them, writes build/bench.json, bench.md and bench.svg."""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType

from tests.bench.cases import Settings
from tests.bench.catalogue import CASES
from tests.bench.compiled import bulk_program
from tests.bench.figures import RunError, Topology
from tests.bench.guard import guarded
from tests.bench.machine import describe
from tests.bench.picture import svg
from tests.bench.report import document, markdown, problems
from tests.bench.rounds import Results, Rounds
from tests.bench.schedule import Progress, planned_s, sentence, span
from tests.bench.sites import scratch, sweep
from tests.bench.systems.registry import SYSTEMS

DEFAULT_RUNS = 5
DEFAULT_SECONDS = 3
DEFAULT_IDLE_CONNECTIONS = 5000
DEFAULT_SOAK_SECONDS = 4
MAX_RUNS, MAX_SECONDS, MAX_IDLE_CONNECTIONS, MAX_SOAK_SECONDS = 100, 300, 5000, 3600

PROGRAMS: Mapping[str, str] = {
    "ip": "iproute2",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "nginx": "nginx-light",
    "wrk": "wrk",
    "ab": "apache2-utils",
    "iperf3": "iperf3",
    "haproxy": "haproxy",
    "clang": "clang",
}
"""What the benchmark runs, and the Debian package that holds it."""


def names(text: str, known: Iterable[str], what: str) -> list[str]:
    """Names separated by commas or blanks, each of `known`; nothing or `all`: all of them. Raises ValueError."""
    known = list(known)
    chosen = list(dict.fromkeys(text.replace(",", " ").split()))
    if not chosen or chosen == ["all"]:
        return known
    if unknown := [name for name in chosen if name not in known]:
        raise ValueError(f"unknown {what} {', '.join(unknown)}; known: {', '.join(known)}")
    return [name for name in known if name in chosen]


def _count(most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text) if text.isdecimal() else 0
        if not 1 <= value <= most:
            raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {most}, not {text!r}")
        return value

    return parse


def _choice(known: Iterable[str], what: str) -> Callable[[str], list[str]]:
    known = list(known)

    def parse(text: str) -> list[str]:
        try:
            return names(text, known, what)
        except ValueError as problem:
            raise argparse.ArgumentTypeError(str(problem)) from None

    return parse


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    lists = (
        ("cases", "case", list(CASES)),
        ("systems", "system", list(SYSTEMS)),
        ("topologies", "topology", [topology.value for topology in Topology]),
    )
    for option, what, known in lists:
        parser.add_argument(
            f"--{option}",
            type=_choice(known, what),
            default=list(known),
            metavar="NAME,...",
            help=f"of {', '.join(known)}; default all",
        )
    for option, default, most, text in (
        ("runs", DEFAULT_RUNS, MAX_RUNS, "runs of each system; 5 or more for figures to quote"),
        ("seconds", DEFAULT_SECONDS, MAX_SECONDS, "duration of a run"),
        ("idle-connections", DEFAULT_IDLE_CONNECTIONS, MAX_IDLE_CONNECTIONS, "connections of idle-memory"),
        ("soak-seconds", DEFAULT_SOAK_SECONDS, MAX_SOAK_SECONDS, "duration of a run of soak"),
    ):
        parser.add_argument(
            f"--{option}", type=_count(most), default=default, metavar="N", help=f"{text}; default {default}"
        )
    parser.add_argument("--output", type=Path, default=Path("build"), metavar="DIR", help="default build")
    return parser.parse_args(arguments)


def _needs() -> None:
    if os.geteuid() != 0:
        raise RunError("root is needed: the benchmark makes network namespaces and cgroups")
    missing = {program: package for program, package in PROGRAMS.items() if not shutil.which(program)}
    if missing:
        raise RunError(
            f"not installed: {', '.join(missing)}; apt-get install {' '.join(sorted(set(missing.values())))}"
        )
    bulk_program()


def _write(output: Path, machine: Mapping[str, object], results: Results) -> str:
    """The three files, whole or not at all each; returns the table."""
    value = document(machine, results.rows)
    if wrong := problems(value):
        raise RunError(f"the result breaks its own format: {'; '.join(wrong)}")
    table = markdown(machine, results.rows)
    if results.failures:
        table += "\n## Failed\n\n" + "".join(f"- {line}\n" for line in results.failures)
    output.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("bench.json", json.dumps(value, indent=1) + "\n"),
        ("bench.md", table),
        ("bench.svg", svg(machine, results.rows)),
    ):
        partial = output / f"{name}.partial"
        partial.write_text(text)
        partial.replace(output / name)
    return table


def _say(line: str) -> None:
    print(line, flush=True)


def _stop(number: int, frame: FrameType | None) -> None:
    """The first signal ends the run; those that follow must not disturb the cleaning up."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    _say(f"{signal.Signals(number).name}: stopping and cleaning up")
    raise SystemExit(128 + number)


def _bench(options: argparse.Namespace, directory: Path) -> int:
    systems = [SYSTEMS[name] for name in options.systems]
    cases = [CASES[name] for name in options.cases]
    settings = Settings(
        seconds=options.seconds,
        runs=options.runs,
        idle_connections=options.idle_connections,
        soak_seconds=options.soak_seconds,
        scratch=directory,
    )
    topologies = [Topology(name) for name in options.topologies]
    _say(f"bench: {sentence(topologies, cases, systems, settings)}")
    machine = describe(systems, settings)
    results = Results()
    progress = Progress(planned_s(topologies, cases, systems, settings), time.monotonic)
    rounds = Rounds(systems, settings, results, progress, _say)
    for topology in topologies:
        rounds.run(topology, cases)
    table = _write(options.output, machine, results)
    _say(
        f"\n{table}\nwritten: bench.json, bench.md and bench.svg in {options.output}, after {span(progress.spent_s())}"
    )
    for failure in results.failures:
        print(f"FAILED {failure}", file=sys.stderr)
    return 1 if results.failures else 0


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 all systems gave figures in all cases, 1 one failed, 2 wrong usage, 128 + n ended by signal n."""
    options = _options(arguments)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        _needs()
    except RunError as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 1
    try:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        for name in sweep():
            _say(f"removed {name}, left by a run that was killed")
        with guarded(os.getpid()), scratch() as directory:
            return _bench(options, directory)
    except RunError as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 1
    finally:
        sweep(os.getpid())  # a signal in the middle of a removal leaves the rest of it
