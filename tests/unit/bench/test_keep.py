from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.catalogue import CASES
from tests.bench.figures import UNITS, Row, Topology
from tests.bench.keep import FILES, main, missing
from tests.bench.report import document
from tests.bench.systems.registry import SYSTEMS


def _whole(*, runs: int = 5) -> list[Row]:
    return [
        Row(
            topology=topology.value,
            case=case.name,
            system=system.name,
            metric=metric,
            unit=UNITS[metric],
            median=1.0,
            min=1.0,
            max=1.0,
            runs=runs,
        )
        for topology in Topology
        for case in CASES.values()
        for system in SYSTEMS.values()
        for metric in case.gives(has_proxies=system.has_proxies)
    ]


def test_a_whole_run_is_whole() -> None:
    assert missing(document({}, _whole())) == []


def test_what_a_run_left_out_is_named() -> None:
    left_out = ("same-node", "bulk", "envoy", "cpu_s_per_gb")
    rows = [row for row in _whole() if (row.topology, row.case, row.system, row.metric) != left_out]
    assert missing(document({}, rows)) == ["no cpu_s_per_gb of envoy in same-node bulk"]
    assert missing(document({}, _whole(runs=4)))[0].startswith("fewer than 5 runs of ")
    assert missing({"rows": []}) == ["the document must be an object with exactly the keys machine and rows"]


def test_only_a_whole_run_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "build", tmp_path / "results"
    source.mkdir()
    assert main([str(source), str(target)]) == 1
    assert "run `make bench` first" in capsys.readouterr().err
    for name in FILES:
        (source / name).write_text(json.dumps(document({}, _whole(runs=1))))
    assert main([str(source), str(target)]) == 1
    assert not target.exists()
    for name in FILES:
        (source / name).write_text(json.dumps(document({}, _whole())))
    assert main([str(source), str(target)]) == 0
    assert sorted(path.name for path in target.iterdir()) == sorted(FILES)
