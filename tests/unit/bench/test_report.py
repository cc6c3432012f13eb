from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.bench.figures import Row
from tests.bench.report import document, markdown, problems

MACHINE = {"kernel": "6.18", "versions": {"envoy": "1.40"}}


def _row(system: str, metric: str, median: float, *, case: str = "http-keepalive-16", unit: str = "us") -> Row:
    return Row(
        topology="cross-node",
        case=case,
        system=system,
        metric=metric,
        unit=unit,
        median=median,
        min=median / 2,
        max=median * 2,
        runs=5,
    )


ROWS = [
    _row("direct", "rps", 100000.0, unit="1/s"),
    _row("nodemesh", "rps", 25000.0, unit="1/s"),
    _row("envoy", "rps", 20000.0, unit="1/s"),
    _row("nodemesh", "cpu_us_per_op", 40.0),
    _row("envoy", "cpu_us_per_op", 80.0),
]


def test_the_document_has_the_published_shape() -> None:
    value = json.loads(json.dumps(document(MACHINE, ROWS)))
    assert problems(value) == []
    assert set(value) == {"machine", "rows"}
    assert value["rows"][3] == {
        "topology": "cross-node",
        "case": "http-keepalive-16",
        "system": "nodemesh",
        "metric": "cpu_us_per_op",
        "unit": "us",
        "median": 40.0,
        "min": 20.0,
        "max": 80.0,
        "runs": 5,
    }


def test_a_document_without_rows_is_sound() -> None:
    assert problems(document(MACHINE, [])) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"topology": "three-nodes"}, "unknown topology"),
        ({"metric": "speed"}, "metric 'speed' has no unit"),
        ({"unit": "ms"}, "has no unit 'ms'"),
        ({"runs": 0}, "runs must be at least 1"),
        ({"runs": 5.0}, "runs must be of type int"),
        ({"median": 7}, "median must be of type float"),
        ({"median": float("nan")}, "must be finite and in order"),
        ({"min": 1e9}, "must be finite and in order"),
    ],
)
def test_what_breaks_the_shape_is_named(changes: dict[str, object], problem: str) -> None:
    value = document(MACHINE, [replace(ROWS[0], **changes)])  # type: ignore[arg-type]
    (found,) = problems(value)
    assert found.startswith("rows[0]: ")
    assert problem in found


def test_missing_and_additional_keys_are_named() -> None:
    value = json.loads(json.dumps(document(MACHINE, ROWS[:2])))
    del value["rows"][0]["unit"]
    value["rows"][1]["note"] = "x"
    assert [problem.partition(":")[0] for problem in problems(value)] == ["rows[0]", "rows[1]"]
    assert problems({"rows": []}) == problems([]) == problems({**value, "more": 1})


def test_a_figure_given_twice_is_named() -> None:
    assert problems(document(MACHINE, [ROWS[0], ROWS[0]])) == [
        "rows[1]: a second row of cross-node http-keepalive-16 direct rps"
    ]


def _cells(table: str, metric: str, system: str) -> list[str]:
    lines = table.partition("## Targets")[0].splitlines()
    (line,) = [line for line in lines if line.startswith(f"| {metric} ") and f"| {system} " in line]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_gives_ratios_to_the_baselines_that_ran() -> None:
    table = markdown(MACHINE, ROWS)
    assert "## cross-node: http-keepalive-16" in table
    assert "- versions:\n  - envoy: 1.40\n" in table
    assert _cells(table, "rps", "nodemesh") == [
        "rps (1/s)",
        "nodemesh",
        "**25000**",
        "12500",
        "50000",
        "5",
        "0.25",
        "1.25",
        "-",
        "-",
    ]
    assert _cells(table, "cpu_us_per_op", "nodemesh")[2:] == ["**40.0**", "20.0", "80.0", "5", "-", "0.50", "-", "-"]
    assert _cells(table, "cpu_us_per_op", "envoy")[2] == "80.0"


def test_a_baseline_of_zero_gives_no_ratio() -> None:
    table = markdown(MACHINE, [_row("envoy", "cpu_us_per_op", 0.0), _row("nodemesh", "cpu_us_per_op", 1.0)])
    assert _cells(table, "cpu_us_per_op", "nodemesh")[-3:] == ["-", "-", "-"]


def test_every_case_has_a_section_of_its_own() -> None:
    table = markdown(MACHINE, [*ROWS, _row("envoy", "rps", 1.0, case="echo-rtt", unit="1/s")])
    assert [line for line in table.splitlines() if line.startswith("## ")] == [
        "## cross-node: http-keepalive-16",
        "## cross-node: echo-rtt",
        "## Targets",
    ]


def test_the_targets_come_last_with_what_was_measured() -> None:
    table = markdown(MACHINE, ROWS)
    last = table[table.index("## Targets") :]
    assert "1 of 1 met; " in last
    (line,) = [line for line in last.splitlines() if line.startswith("| yes ")]
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "yes",
        "cross-node",
        "http-keepalive-16",
        "cpu_us_per_op (us)",
        "<= 0.7 x envoy",
        "0.50",
        "40.0",
        "80.0",
    ]
    assert "Targets" not in markdown(MACHINE, [row for row in ROWS if row.system != "nodemesh"])
