"""What the demo says while it runs, and what it ends with: a table, and build/demo.json."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from nodeagent.tables import cell, table

MAX_DETAIL = 600
"""Characters of what a check saw."""
BUILD = Path(__file__).parents[2] / "build"


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    name: str
    ok: bool
    detail: str


class Stage:
    """Prints and remembers."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self.results: list[Result] = []

    def say(self, text: str) -> None:
        """What happens now, in plain words."""
        # click leaves colours out where standard output is no terminal
        click.echo(click.style(f"{time.monotonic() - self._started:6.1f} s", dim=True) + f"  {text}")

    def check(self, name: str, run: Callable[[], str]) -> bool:
        """Run one check; whatever it raises makes it false, and the demo goes on."""
        try:
            result = Result(name, True, run())
        except Exception as error:
            result = Result(name, False, f"{type(error).__name__}: {error}".replace("\n", " ")[:MAX_DETAIL])
        self.results.append(result)
        mark = click.style("ok    ", fg="green") if result.ok else click.style("FAILED", fg="red")
        click.echo(f"          {mark} {name}: {cell(result.detail, MAX_DETAIL)}")
        return result.ok

    def finish(self) -> bool:
        """The table and the file; whether all is well."""
        rows = [(result.name, "yes" if result.ok else "NO", result.detail) for result in self.results]
        click.echo(table(("CHECK", "OK", "WHAT WAS SEEN"), rows, MAX_DETAIL))
        BUILD.mkdir(exist_ok=True)
        path = BUILD / "demo.json"
        path.write_text(json.dumps({"checks": [asdict(result) for result in self.results]}, indent=2) + "\n")
        good = sum(result.ok for result in self.results)
        self.say(f"{good} of {len(self.results)} checks are good; written to {path}")
        return bool(self.results) and good == len(self.results)
