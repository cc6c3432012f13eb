"""The table of results, and its place in a document. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from vmlab.verdicts import Tally, Verdict

BEGIN: Final = "<!-- results: written by make vm-matrix -->"
END: Final = "<!-- end of results -->"
HEADINGS: Final = (
    "kernel", "release", "capture tests", "splice tests", "netns stories", "self-test", "off or absent, and why", "run",
)  # fmt: skip
Row = tuple[str, ...]


def row(series: str, release: str, verdict: Verdict, *, how: str) -> Row:
    """One kernel; ``how`` it was run, and how long it took."""
    tallies = [_count(verdict.groups.get(name, Tally())) for name in ("capture", "splice", "stories")]
    return (series, release, *tallies, _self_test(verdict), _off(verdict), how + _blemish(verdict))


def _count(tally: Tally) -> str:
    parts = [f"{tally.passed} passed"]
    parts += [f"{tally.degraded} degraded"] if tally.degraded else []
    parts += [f"**{len(tally.failed)} failed**"] if tally.failed else []
    return ", ".join(parts)


def _blemish(verdict: Verdict) -> str:
    texts = [verdict.unfinished] if verdict.unfinished else []
    texts += [f"the kernel complained: {verdict.trouble[0]}"] if verdict.trouble else []
    return "".join(f"; **{text}**" for text in texts)


def _items(verdict: Verdict) -> dict[str, str]:
    test = verdict.splice.get("self_test")
    items = test.get("items") if isinstance(test, dict) else None
    return items if isinstance(items, dict) else {}


def _self_test(verdict: Verdict) -> str:
    items = _items(verdict)
    if not items:
        return "not run"
    return f"{sum(result == 'pass' for result in items.values())} of {len(items)} pass"


def _off(verdict: Verdict) -> str:
    texts = [f"splice: {verdict.splice['why_not']}"] if verdict.splice.get("why_not") else []
    texts += [f"`{name}`: {result}" for name, result in _items(verdict).items() if result != "pass"]
    return "; ".join(texts) or "nothing"


def render(rows: list[Row]) -> str:
    """A Markdown table."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *rows]
    return "".join("| " + " | ".join(_cell(text) for text in line) + " |\n" for line in lines)


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("|", "\\|"))


def parse(document: str) -> dict[str, Row]:
    """The rows that a document holds, by series."""
    _, _, table = _split(document)
    found = [tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]) for line in table.splitlines()[2:]]
    return {
        cells[0]: tuple(cell.replace("\\|", "|") for cell in cells) for cells in found if len(cells) == len(HEADINGS)
    }


def put(document: str, fresh: Mapping[str, Row]) -> str:
    """The document with these rows in place of those of the same series; rows are in order of series."""
    before, after, _ = _split(document)
    rows = {**parse(document), **fresh}
    ordered = [rows[name] for name in sorted(rows, key=_order)]
    return f"{before}{BEGIN}\n{render(ordered)}{END}{after}"


def _order(series: str) -> tuple[float, ...]:
    return tuple(float("inf") if part == "x" else float(part) for part in series.split("."))


def _split(document: str) -> tuple[str, str, str]:
    before, begin, rest = document.partition(BEGIN)
    table, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document has no place for the table: the lines {BEGIN!r} and {END!r}")
    return before, after, table.strip("\n")
