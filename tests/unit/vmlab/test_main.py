from __future__ import annotations

import sys
from pathlib import Path

import pytest
from vmlab import __main__ as vmlab
from vmlab import table
from vmlab.verdicts import Tally, Verdict

OLD = ("6.1", "6.1.0-1", "37 passed", "1 passed", "6 passed", "not run", "nothing", "emulated, some, 11 min")


class NoArchive:
    def __init__(self, _place: Path) -> None:
        pass

    def refresh(self) -> None:
        pass


@pytest.fixture
def readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "README.md"
    file.write_text(table.put(f"{table.BEGIN}\n{table.render([])}{table.END}\n", {"6.1": OLD}))
    monkeypatch.setattr(vmlab, "README", file)
    monkeypatch.setattr(vmlab, "Archive", NoArchive)
    monkeypatch.setattr(sys, "argv", ["vmlab", "--keep", "6.1"])
    return file


def booted(monkeypatch: pytest.MonkeyPatch, verdict: Verdict) -> int:
    fresh = table.row("6.1", "6.1.0-2", verdict, how="emulated")
    monkeypatch.setattr(vmlab, "examine", lambda *_: (fresh, verdict))
    return vmlab.main()


def test_a_guest_that_died_before_its_first_test_leaves_the_row(
    readme: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert booted(monkeypatch, Verdict(unfinished="no test ended")) == 1
    assert table.parse(readme.read_text())["6.1"] == OLD
    assert "stays as it was: no test ended" in capsys.readouterr().err


def test_what_a_guest_told_is_kept_failures_included(readme: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert booted(monkeypatch, Verdict({"capture": Tally(passed=1, failed=("test_x",))})) == 1
    assert table.parse(readme.read_text())["6.1"][:3] == ("6.1", "6.1.0-2", "1 passed, **1 failed**")
