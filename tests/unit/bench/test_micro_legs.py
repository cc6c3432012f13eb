"""The programs of the leg's measurement, on plain TCP: what they print is time, and all bytes arrive."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import micro_legs
from tests.bench.compiled import BPF_COMPILER, CLIENTS, compiled


@pytest.mark.parametrize(("here", "there", "count"), [("ask", "answer", 200), ("send", "read", 3 << 20)])
def test_both_ends_report_what_they_took(here: str, there: str, count: int) -> None:
    with micro_legs.leg(None, None) as pair:
        cpu, wall = micro_legs.timed(pair, here, there, count)
        assert cpu > 0 and wall > 0
        other, again = micro_legs.timed(pair, there, here, count)
        assert other > 0 and again > 0


def test_the_bare_redirect_compiles(tmp_path: Path) -> None:
    assert compiled(CLIENTS / "legs.bpf.c", tmp_path / "legs.bpf.o", BPF_COMPILER).stat().st_size
