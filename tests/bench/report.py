"""build/bench.json and the table with ratios. Pure: text and documents out, rows in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from tests.bench.figures import HIGHER_IS_BETTER, UNITS, Row, Topology
from tests.bench.verdicts import Verdict, judge, summary

BASELINES = ("direct", "envoy", "envoy-hbone", "haproxy")
"""The systems that the table gives ratios to, where they ran."""

ABSENT = "-"

ROW_FIELDS: Mapping[str, type] = {
    "topology": str,
    "case": str,
    "system": str,
    "metric": str,
    "unit": str,
    "median": float,
    "min": float,
    "max": float,
    "runs": int,
}


def document(machine: Mapping[str, object], rows: Iterable[Row]) -> dict[str, object]:
    """The content of bench.json."""
    return {"machine": dict(machine), "rows": [asdict(row) for row in rows]}


def problems(value: object) -> list[str]:
    """What is wrong with a bench.json document; empty for a good one."""
    if not isinstance(value, dict) or set(value) != {"machine", "rows"}:
        return ["the document must be an object with exactly the keys machine and rows"]
    found = []
    if not isinstance(value["machine"], dict):
        found.append("machine must be an object")
    if not isinstance(value["rows"], list):
        return [*found, "rows must be a list"]
    seen: set[tuple[object, ...]] = set()
    for index, row in enumerate(value["rows"]):
        found += [f"rows[{index}]: {problem}" for problem in _row_problems(row)]
        if isinstance(row, dict):
            key = tuple(str(row.get(field)) for field in ("topology", "case", "system", "metric"))
            if key in seen:
                found.append(f"rows[{index}]: a second row of {' '.join(map(str, key))}")
            seen.add(key)
    return found


def _row_problems(row: object) -> list[str]:
    if not isinstance(row, dict) or set(row) != set(ROW_FIELDS):
        return [f"must be an object with exactly the keys {', '.join(ROW_FIELDS)}"]
    found = [
        f"{field} must be of type {kind.__name__}, not {row[field]!r}"
        for field, kind in ROW_FIELDS.items()
        if type(row[field]) is not kind
    ]
    if found:
        return found
    if row["topology"] not in set(Topology):
        found.append(f"unknown topology {row['topology']!r}")
    if UNITS.get(row["metric"]) != row["unit"]:
        found.append(f"metric {row['metric']!r} has no unit {row['unit']!r}")
    figures = (row["min"], row["median"], row["max"])
    if not all(math.isfinite(figure) for figure in figures) or list(figures) != sorted(figures):
        found.append(f"min, median, max must be finite and in order, not {figures}")
    if row["runs"] < 1:
        found.append("runs must be at least 1")
    return found


def markdown(machine: Mapping[str, object], rows: Sequence[Row]) -> str:
    """The table of bench.md: one section per topology and case, ratios of every median to the baselines' medians,
    and at the end the targets with what was measured."""
    lines = ["# Benchmark", ""]
    for key, value in machine.items():
        lines += _fact(key, value)
    lines += [
        "",
        "Medians. A ratio column is the system's median divided by the baseline's of the same run.",
        "",
        "- `cpu_` and `kib_` count the proxies alone, so `direct` has none.",
        "- `cpu_all_` counts all parties: client and server program, proxies, control, the softirq charged",
        "  to them, and ksoftirqd.",
        "- `softirq_` counts the whole machine.",
    ]
    for topology in Topology:
        for case in dict.fromkeys(row.case for row in rows if row.topology == topology):
            section = [row for row in rows if row.topology == topology and row.case == case]
            lines += ["", f"## {topology}: {case}", "", *_table(section)]
    if verdicts := judge(rows):
        lines += ["", "## Targets", "", f"{summary(verdicts)}.", "", *_verdict_table(verdicts)]
    return "\n".join(lines) + "\n"


def _fact(key: str, value: object) -> list[str]:
    """A list item; a value with parts has an item below it for each of them."""
    if not isinstance(value, dict):
        return [f"- {key}: {value}"]
    return [f"- {key}:", *(f"  - {name}: {item}" for name, item in value.items())]


def _table(section: Sequence[Row]) -> list[str]:
    header = ["metric", "system", "median", "min", "max", "runs", *(f"x {name}" for name in BASELINES)]
    body = []
    for metric in (name for name in UNITS if any(row.metric == name for row in section)):
        of_metric = {row.system: row for row in section if row.metric == metric}
        best = _best(metric, of_metric.values())
        for system, row in of_metric.items():
            mark = "**" if system == best else ""
            body.append(
                [
                    f"{metric} ({row.unit})",
                    system,
                    f"{mark}{_figure(row.median)}{mark}",
                    _figure(row.min),
                    _figure(row.max),
                    str(row.runs),
                    *(_ratio(row, of_metric.get(name)) for name in BASELINES),
                ]
            )
    return _ruled(header, body)


def _verdict_table(verdicts: Sequence[Verdict]) -> list[str]:
    body = [
        [
            "yes" if verdict.met else "**no**",
            verdict.target.topology.value,
            verdict.target.case,
            f"{verdict.target.metric} ({UNITS[verdict.target.metric]})",
            verdict.target.text,
            f"{verdict.measured:.2f}",
            _figure(verdict.ours),
            ABSENT if verdict.baseline is None else _figure(verdict.baseline),
        ]
        for verdict in verdicts
    ]
    header = ["met", "topology", "case", "metric", "target", "measured", "nodemesh", "baseline"]
    return _ruled(header, body)


def _ruled(header: list[str], body: list[list[str]]) -> list[str]:
    """Lines of a Markdown table, its columns aligned."""
    widths = [max(len(line[column]) for line in [header, *body]) for column in range(len(header))]
    ruled = [header, ["-" * width for width in widths], *body]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in ruled)
    return [f"| {' | '.join(cells)} |" for cells in padded]


def _best(metric: str, rows: Iterable[Row]) -> str:
    """The best system, `direct` aside: it does none of the work."""
    proxied = [row for row in rows if row.system != "direct"]
    if len(proxied) < 2:
        return ""
    choose = max if metric in HIGHER_IS_BETTER else min
    return choose(proxied, key=lambda row: row.median).system


def _ratio(row: Row, baseline: Row | None) -> str:
    if baseline is None or not baseline.median:
        return ABSENT
    return f"{row.median / baseline.median:.2f}"


def _figure(value: float) -> str:
    """Three significant digits at least, no exponent."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
