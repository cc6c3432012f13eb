"""Who owns what a benchmark leaves behind, by its name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.bench import sites

GONE = 2**22 + 1
"""Above every process id."""


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Scratch directories and cgroups below `tmp_path`, no labs."""
    root = tmp_path / "cgroup"
    root.mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(sites, "cgroup2_root", lambda: root)
    monkeypatch.setattr("tests.netns.place.existing", list)
    monkeypatch.setattr("tests.netns.place.sweep", lambda: None)
    return tmp_path


def _leave(places: Path, *names: str) -> None:
    for name in names:
        (places / name).mkdir()
        (places / name / "file").touch()


def test_what_the_dead_left_goes_and_what_the_living_use_stays(places: Path) -> None:
    _leave(places, f"nmb-{GONE}-1", f"nmb-{os.getpid()}-1", "nmb-x-1", "other")
    assert sites.sweep() == [str(places / f"nmb-{GONE}-1")]
    assert not (places / f"nmb-{GONE}-1").exists()
    assert all((places / name).exists() for name in (f"nmb-{os.getpid()}-1", "nmb-x-1", "other"))


def test_an_owner_s_things_go_even_while_it_lives(places: Path) -> None:
    _leave(places, f"nmb-{os.getpid()}-1", f"nmb-{os.getpid()}-2", f"nmb-{GONE}-1")
    assert len(sites.sweep(os.getpid())) == 2
    assert [path.name for path in places.glob("nmb-*")] == [f"nmb-{GONE}-1"]
