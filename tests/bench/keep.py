"""`python -m tests.bench.keep FROM TO`: keeps a run's files as the figures to quote, if it was a whole one.

A picture of a run that left out cases, systems or repetitions would say more than was measured.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from tests.bench.catalogue import CASES
from tests.bench.figures import Topology
from tests.bench.report import problems
from tests.bench.systems.registry import SYSTEMS

MIN_RUNS = 5
FILES = ("bench.json", "bench.md", "bench.svg")


def missing(document: dict[str, object]) -> list[str]:
    """What keeps a bench.json from being that of a whole run; empty for one."""
    if found := problems(document):
        return found
    rows = document["rows"]
    assert isinstance(rows, list)
    there = {(row["topology"], row["case"], row["system"], row["metric"]) for row in rows}
    found = [
        f"no {metric} of {system} in {topology} {case}"
        for topology in Topology
        for case in CASES
        for system in SYSTEMS
        for metric in sorted(CASES[case].gives(has_proxies=SYSTEMS[system].has_proxies))
        if (topology, case, system, metric) not in there
    ]
    few = sorted({row["case"] for row in rows if row["runs"] < MIN_RUNS})
    return found + [f"fewer than {MIN_RUNS} runs of {case}" for case in few]


def main(arguments: list[str]) -> int:
    source, target = map(Path, arguments)
    try:
        faults = missing(json.loads((source / "bench.json").read_text()))
    except (OSError, ValueError) as error:
        faults = [f"{source / 'bench.json'}: {error}; run `make bench` first"]
    if faults:
        print("\n".join(["bench-keep: not a whole run:", *faults]), file=sys.stderr)
        return 1
    target.mkdir(exist_ok=True)
    for name in FILES:
        shutil.copyfile(source / name, target / name)
    print(f"kept in {target}: {', '.join(FILES)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
