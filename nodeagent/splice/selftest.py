"""The self-test at agent start: every trial on the running kernel, by a process of its own in a scratch cgroup, in well
under a second. What fails switches off exactly what depends on it.

Most failures forbid splicing at all. ``fionread`` does not: flows whose readers ask are kept out instead. Those of legs
forbid joining the legs of flows that leave the node. Neither do
``bulk-v6``, ``dual-stack`` and ``multipath`` where the machine lacks them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from nodeagent.loader.errors import LoaderError
from nodeagent.splice.controller import DEFAULT_LIMIT
from nodeagent.splice.scratch import Scratch
from nodeagent.splice.splicer import Splicer
from nodeagent.splice.trials import TRIALS, AbsentError, WrongError, stopped_reader

TIMEOUT_SECONDS: Final = 15.0
"""Far more than it takes; a kernel that hangs does not keep the agent from starting."""
GUARDED: Final = frozenset({"fionread"})
"""Trials whose failure is made good by a guard."""


LEGS: Final = "leg-"
"""How trials begin whose failure concerns nothing but legs."""


class Result(StrEnum):
    """Of one trial."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    ABSENT = "not available"


@dataclass(frozen=True, slots=True)
class Item:
    """One trial."""

    name: str
    result: Result
    detail: str = ""
    milliseconds: float = 0.0


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What was found."""

    items: tuple[Item, ...]
    seconds: float

    @property
    def off(self) -> str:
        """Why nothing may be spliced on this kernel; empty if flows may be."""
        if not self.items:
            return "the self-test did not run"
        return self._told(lambda name: name not in GUARDED and not name.startswith(LEGS))

    @property
    def legs_off(self) -> str:
        """Why no leg may be joined on this kernel; empty if legs may be."""
        return self._told(lambda name: name.startswith(LEGS))

    def _told(self, concerns: Callable[[str], bool]) -> str:
        failed = [item for item in self.items if item.result is Result.FAIL and concerns(item.name)]
        return "the self-test failed: " + "; ".join(f"{item.name}: {item.detail}" for item in failed) if failed else ""

    @property
    def guard_fionread(self) -> bool:
        """Whether flows whose readers ask FIONREAD have to be kept out."""
        return any(item.name == "fionread" and item.result is not Result.PASS for item in self.items)


def run(pin_dir: Path, cgroup_root: Path, limit: int = DEFAULT_LIMIT) -> SelfTest:
    """Test what a ``SpliceController`` put in force at ``pin_dir`` (blocks for most of a second; it never raises)."""
    scratch = cgroup_root / f"nodemesh-selftest-{os.getpid()}"
    began = time.monotonic()
    command = [sys.executable, "-m", __name__, str(pin_dir), str(scratch), str(limit)]
    try:
        scratch.mkdir(exist_ok=True)
        try:
            done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_SECONDS, check=False)
        finally:
            _remove(scratch)
        if done.returncode:
            last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            return SelfTest((Item("self-test", Result.FAIL, f"its process failed: {last}"),), time.monotonic() - began)
        return SelfTest(tuple(_item(fields) for fields in json.loads(done.stdout)), time.monotonic() - began)
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        detail = f"it did not finish: {error}"
        return SelfTest((Item("self-test", Result.FAIL, detail),), time.monotonic() - began)


def try_all(pin_dir: Path, limit: int) -> list[Item]:
    """Every trial, in this process."""
    try:
        splicer = Splicer(pin_dir)
    except LoaderError as error:
        return [Item("open", Result.FAIL, str(error))]
    scratch = Scratch(pin_dir, splicer)
    try:
        items = [_try(name, lambda trial=trial: trial(scratch)) for name, trial in TRIALS.items()]  # type: ignore[misc]
        return [*items, _try("stopped-reader", lambda: stopped_reader(scratch, limit))]
    finally:
        scratch.close()
        splicer.close()


def _try(name: str, trial: Callable[[], None]) -> Item:
    began = time.monotonic()
    result, detail = Result.PASS, ""
    try:
        trial()
    except AbsentError as error:
        result, detail = Result.ABSENT, str(error)
    except (WrongError, OSError, LoaderError) as error:
        result, detail = Result.FAIL, str(error) or type(error).__name__
    return Item(name, result, detail, round((time.monotonic() - began) * 1000, 1))


def _item(fields: dict[str, str]) -> Item:
    return Item(fields["name"], Result(fields["result"]), fields["detail"], float(fields["milliseconds"]))


def _remove(cgroup: Path) -> None:
    try:
        cgroup.rmdir()
    except OSError:
        return  # a process that was killed is still leaving; an empty cgroup harms nobody


def main(arguments: list[str]) -> None:
    """In the scratch cgroup: try, and print."""
    pin_dir, cgroup, limit = arguments
    (Path(cgroup) / "cgroup.procs").write_text(str(os.getpid()))
    sys.stdout.write(json.dumps([asdict(item) for item in try_all(Path(pin_dir), int(limit))]))


if __name__ == "__main__":
    main(sys.argv[1:])
