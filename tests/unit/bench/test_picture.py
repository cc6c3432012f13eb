from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from tests.bench.figures import UNITS, Row
from tests.bench.picture import METRICS, OTHERS, factor, figure, svg
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


def _x(picture: ElementTree.Element, system: str) -> float:
    """Where the mark of a system is (not the one of the legend)."""
    (mark,) = [
        element
        for element in picture.iter()
        if element.get("class") == f"mark {system}" and element.find(f"{SVG}title") is not None
    ]
    where = mark.get("cx") or mark.get("x") or re.findall(r"[0-9.]+", mark.get("d", ""))[0]
    return float(where)


def test_a_mark_tells_how_many_times_better_nodemesh_is() -> None:
    picture = _drawn(_row("nodemesh", "gbit_s", 10.0), _row("envoy", "gbit_s", 5.0), _row("haproxy", "gbit_s", 20.0))
    assert _titles(picture) == [
        "cross-node, bulk, throughput: 2.00 against Envoy",
        "cross-node, bulk, throughput: 0.50 against HAProxy",
    ]
    assert _x(picture, "envoy") > _x(picture, "haproxy")


def test_of_costs_less_is_better() -> None:
    assert factor("cpu_us_per_op", 30.0, 60.0) == 2.0
    assert factor("rps", 30.0, 60.0) == 0.5
    assert factor("p99_us", 60.0, 30.0) == 0.5


@pytest.mark.parametrize(("ours", "theirs"), [(0.0, 1.0), (1.0, 0.0), (-1.0, 2.0)])
def test_what_cannot_be_compared_is_not_drawn(ours: float, theirs: float) -> None:
    assert factor("kib_per_connection", ours, theirs) is None
    rows = [_row("nodemesh", "kib_per_connection", ours), _row("envoy", "kib_per_connection", theirs)]
    assert _titles(_drawn(*rows)) == []


def test_what_is_off_the_scale_is_drawn_at_its_end() -> None:
    picture = _drawn(_row("nodemesh", "gbit_s", 1000.0), _row("envoy", "gbit_s", 1.0), _row("haproxy", "gbit_s", 0.5))
    assert _titles(picture)[0].startswith("cross-node, bulk, throughput: 1000.00")
    assert _x(picture, "envoy") == pytest.approx(_x(picture, "haproxy") + 3.6, abs=0.2)
    assert _x(picture, "envoy") < float(picture.get("width", "0"))


def test_only_measured_topologies_and_cases_have_a_place() -> None:
    one = _texts(_drawn(_row("nodemesh", "gbit_s", 10.0)))
    assert "cross-node" in one
    assert "same-node" not in one
    assert "bulk" in one
    assert "idle-memory" not in one


def test_without_figures_of_nodemesh_there_is_a_picture_without_marks() -> None:
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
    assert set(OTHERS) <= set(SYSTEMS)


def test_light_and_dark() -> None:
    text = svg(MACHINE, [_row("nodemesh", "gbit_s", 1.0)])
    assert "prefers-color-scheme:dark" in text
    light, dark = text.split("@media", 1)
    classes = set(re.findall(r'class="([a-z -]+)"', text)) - {"title", "head"}
    colourful = {name for group in classes for name in group.split()} - {"small", "mark", "title", "head"}
    assert all(f".{name}{{" in light and f".{name}{{" in dark for name in colourful)
