from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from tests.bench.catalogue import CASES as CATALOGUE
from tests.bench.figures import UNITS, Row
from tests.bench.picture import CASES, METRICS, OTHERS, STEPS, factor, figure, shade, svg, times
from tests.bench.systems.registry import SYSTEMS

MACHINE = {"kernel": "6.18", "cpus": 2, "load_at_start": 0.5}
SVG = "{http://www.w3.org/2000/svg}"


def _row(system: str, metric: str, median: float, *, case: str = "bulk", topology: str = "cross-node") -> Row:
    return Row(
        topology=topology,
        case=case,
        system=system,
        metric=metric,
        unit=UNITS[metric],
        median=median,
        min=median,
        max=median,
        runs=5,
    )


def _drawn(*rows: Row) -> ElementTree.Element:
    return ElementTree.fromstring(svg(MACHINE, rows))


def _titles(picture: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in picture.iter(f"{SVG}title")]


def _texts(picture: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in picture.iter(f"{SVG}text")]


def _shades(picture: ElementTree.Element) -> list[str]:
    """The colours of the cells, in order."""
    return [
        element.get("class") or "" for element in picture.iter(f"{SVG}rect") if element.find(f"{SVG}title") is not None
    ]


def test_a_cell_tells_how_many_times_better_nodemesh_is() -> None:
    picture = _drawn(_row("nodemesh", "gbit_s", 10.0), _row("envoy", "gbit_s", 5.0), _row("haproxy", "gbit_s", 20.0))
    assert _titles(picture) == [
        "cross-node, bulk, throughput: 2.0× against Envoy",
        "cross-node, bulk, throughput: 0.5× against HAProxy",
    ]
    assert {"2.0×", "0.5×"} <= set(_texts(picture))
    assert _shades(picture) == ["b2", "w1"]


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (100.0, "b3"),
        (4.0, "b3"),
        (3.9, "b2"),
        (1.3, "b1"),
        (1.0, "n"),
        (0.8, "n"),
        (0.79, "w1"),
        (0.3, "w2"),
        (0.1, "w3"),
    ],
)
def test_the_colour_follows_the_factor(value: float, name: str) -> None:
    assert shade(value) == name


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.04, "1.0×"),
        (9.94, "9.9×"),
        (12.3, "12×"),
        (99.0, "99×"),
        (1e9, ">99×"),
        (math.inf, ">99×"),
        (0.0123, "0.012×"),
    ],
)
def test_a_factor_is_short(value: float, text: str) -> None:
    assert times(value) == text


def test_a_target_is_marked_where_it_is_met_or_missed() -> None:
    rows = [
        *(
            _row(system, "gbit_s", median, topology="same-node")
            for system, median in (("nodemesh", 20), ("direct", 11))
        ),
        *(_row(system, "cpu_s_per_gb", median) for system, median in (("nodemesh", 2.0), ("envoy", 3.0))),
        _row("nodemesh", "kib_per_connection", 10.0, case="idle-memory"),
    ]
    assert {"1.8× ✗", "1.5× ✓", "10.0 KiB ✓"} <= set(_texts(_drawn(*rows)))


def test_of_costs_less_is_better() -> None:
    assert factor("cpu_us_per_op", 30.0, 60.0) == 2.0
    assert factor("rps", 30.0, 60.0) == 0.5
    assert factor("p99_us", 60.0, 30.0) == 0.5


@pytest.mark.parametrize(("ours", "theirs"), [(1.0, 0.0), (-1.0, 2.0)])
def test_what_cannot_be_compared_is_not_drawn(ours: float, theirs: float) -> None:
    assert factor("kib_per_connection", ours, theirs) is None
    rows = [_row("nodemesh", "kib_per_connection", ours), _row("envoy", "kib_per_connection", theirs)]
    assert _titles(_drawn(*rows)) == []


def test_no_cost_at_all_is_better_than_any_and_no_rate_is_nothing() -> None:
    assert factor("cpu_s_per_gb", 0.0, 1.0) == math.inf
    assert factor("gbit_s", 0.0, 1.0) is None


def test_only_measured_topologies_and_cases_have_a_place() -> None:
    one = _texts(_drawn(_row("nodemesh", "gbit_s", 10.0)))
    assert "cross-node, nodemesh against …" in one
    assert "same-node, nodemesh against …" not in one
    assert "bulk" in one
    assert "idle-memory" not in one


def test_without_figures_of_nodemesh_there_is_a_picture_without_cells() -> None:
    assert _titles(_drawn(_row("envoy", "gbit_s", 10.0))) == []
    assert _titles(_drawn()) == []


def test_nodemesh_shows_its_own_figure() -> None:
    assert "15.3 k/s" in _texts(_drawn(_row("nodemesh", "rps", 15288.0)))
    assert figure("cpu_us_per_op", 64.9) == "65 µs"
    assert figure("p99_us", 4393.0) == "4.39 ms"
    assert figure("kib_per_connection", 29.96) == "30.0 KiB"
    assert figure("rps", 325.4) == "325/s"


def test_the_picture_and_the_benchmark_use_the_same_names() -> None:
    assert set(METRICS) <= set(UNITS)
    assert set(CASES) == set(CATALOGUE)
    assert set(OTHERS) <= set(SYSTEMS)


def test_light_and_dark() -> None:
    text = svg(MACHINE, [_row("nodemesh", "gbit_s", 1.0)])
    assert "prefers-color-scheme:dark" in text
    light, dark = text.split("@media", 1)
    classes = set(re.findall(r'class="([a-z0-9 ]+)"', text))
    colourful = {name for group in classes for name in group.split()} - {"small", "title", "head"}
    assert len(colourful) >= len(STEPS) + 1
    assert all(f".{name}{{" in light and f".{name}{{" in dark for name in colourful)
