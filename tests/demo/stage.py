"""What the demo says while it runs, and what it ends with: a table, and build/demo.json."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

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
        self._console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self.results: list[Result] = []

    def say(self, text: str) -> None:
        """What happens now, in plain words."""
        self._console.print(f"[dim]{time.monotonic() - self._started:6.1f} s[/dim]  {text}", markup=True)

    def check(self, name: str, run: Callable[[], str]) -> bool:
        """Run one check; whatever it raises makes it false, and the demo goes on."""
        try:
            result = Result(name, True, run())
        except Exception as error:
            result = Result(name, False, f"{type(error).__name__}: {error}".replace("\n", " ")[:600])
        self.results.append(result)
        mark = "[green]ok[/green]    " if result.ok else "[red]FAILED[/red]"
        self._console.print(f"          {mark} {name}: ", end="")
        self._console.print(result.detail, markup=False)
        return result.ok

    def finish(self) -> bool:
        """The table and the file; whether all is well."""
        table = Table(title="nodemesh demo", title_justify="left", show_lines=False)
        table.add_column("check", no_wrap=True)
        table.add_column("ok", no_wrap=True)
        table.add_column("what was seen", overflow="fold")
        for result in self.results:
            table.add_row(result.name, "[green]yes[/green]" if result.ok else "[red]NO[/red]", _plain(result.detail))
        width = self._console.width if sys.stdout.isatty() else 140
        Console(file=sys.stdout, highlight=False, width=width).print(table)
        BUILD.mkdir(exist_ok=True)
        path = BUILD / "demo.json"
        path.write_text(json.dumps({"checks": [asdict(result) for result in self.results]}, indent=2) + "\n")
        good = sum(result.ok for result in self.results)
        self.say(f"{good} of {len(self.results)} checks are good; written to {path}")
        return bool(self.results) and good == len(self.results)


def _plain(text: str) -> str:
    return text.replace("[", "\\[")
