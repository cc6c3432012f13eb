"""The self-test at agent start: every trial on the running kernel, by a process of its own in a scratch cgroup, in well
under a second where the machine is not starved (``selftest_run`` watches it). What fails switches off exactly what
depends on it.

Most failures forbid splicing at all. ``fionread`` does not: flows whose readers ask are kept out instead. Those of legs
forbid joining the legs of flows that leave the node. Neither do
``bulk-v6``, ``dual-stack`` and ``multipath`` where the machine lacks them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from nodeagent.loader.errors import LoaderError
from nodeagent.splice.scratch import Scratch
from nodeagent.splice.splicer import Splicer
from nodeagent.splice.trials import TRIALS, AbsentError, WrongError, stopped_reader

GUARDED: Final = frozenset({"fionread"})
"""Trials whose failure is made good by a guard."""
LEGS: Final = "leg-"
"""How trials begin whose failure concerns nothing but legs."""
WHOLE: Final = "self-test"
"""Instead of a trial's name: what kept the self-test itself from its end. It forbids everything."""
BEGINS: Final = "begins"
"""The only field of the line that says which trial is next. Every other line is an ``Item``."""


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


def try_all(pin_dir: Path, limit: int) -> Iterator[str | Item]:
    """Every trial, in this process: its name before it begins, and what came of it."""
    yield "open"
    try:
        splicer = Splicer(pin_dir)
    except LoaderError as error:
        yield Item("open", Result.FAIL, str(error))
        return
    scratch = Scratch(pin_dir, splicer)
    try:
        for name, trial in TRIALS.items():
            yield name
            yield _try(name, lambda trial=trial: trial(scratch))  # type: ignore[misc]
        yield "stopped-reader"
        yield _try("stopped-reader", lambda: stopped_reader(scratch, limit))
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


def line_of(told: str | Item) -> str:
    """As the process says it."""
    return json.dumps({BEGINS: told} if isinstance(told, str) else asdict(told)) + "\n"


def told_by(line: bytes) -> str | Item:
    """What a line says: the name of the trial that begins, or what came of one; ValueError if neither."""
    try:
        fields = json.loads(line)
        if BEGINS in fields:
            return str(fields[BEGINS])
        return Item(fields["name"], Result(fields["result"]), fields["detail"], float(fields["milliseconds"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a line of the self-test: {line[:80]!r}") from error


def main(arguments: list[str]) -> None:
    """In the scratch cgroup: try, and print each line as soon as it is so."""
    pin_dir, cgroup, limit = arguments
    (Path(cgroup) / "cgroup.procs").write_text(str(os.getpid()))
    for told in try_all(Path(pin_dir), int(limit)):
        sys.stdout.write(line_of(told))
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
