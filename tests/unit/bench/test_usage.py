from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.bench.figures import RunError
from tests.bench.processes import Place
from tests.bench.sites import cgroup2_root
from tests.bench.systems.base import Deployment
from tests.bench.usage import Stat, measured, parse_softirq, parse_stat, pss_kib, tree

LINE = "4711 ({name}) S 12 4711 4711 0 -1 4194560 900 80 0 0 {user} {system} {child_user} {child_system} 20 0 5 0 999"


@pytest.mark.parametrize("name", ["envoy", "a b", "x) S 1 (y", ")", "("])
def test_stat_adds_own_and_waited_for_time_whatever_the_name(name: str) -> None:
    text = LINE.format(name=name, user=100, system=20, child_user=3, child_system=4)
    assert parse_stat(text) == Stat(pid=4711, name=name, parent=12, ticks=127)


def test_a_tree_is_the_roots_and_their_descendants() -> None:
    parents = {1: 0, 10: 1, 11: 10, 12: 11, 20: 1, 21: 20}
    stats = {pid: Stat(pid, "x", parent, 0) for pid, parent in parents.items()}
    assert tree([10], stats) == {10, 11, 12}
    assert tree([10, 20], stats) == {10, 11, 12, 20, 21}
    assert tree([99], stats) == frozenset()


def _deployment(*proxies: int, parties: tuple[Path, ...] = ()) -> Deployment:
    place = Place("none")
    return Deployment(client=place, server=place, entries={}, proxies=frozenset(proxies), parties=parties)


def _burn(seconds: float) -> None:
    end = os.times().user + seconds
    while os.times().user < end:
        pass


def test_the_cpu_of_a_run_is_counted() -> None:
    with measured(_deployment(os.getpid())) as cost:
        _burn(0.2)
    assert 0.15 <= cost.proxies_s < 5


def test_all_parties_are_what_their_cgroups_hold(tmp_path: Path) -> None:
    """Two groups, filled by hand; the kernel's own of this process is not among them."""
    groups = [tmp_path / name for name in ("client", "server")]
    for group in groups:
        group.mkdir()
        (group / "cpu.stat").write_text("usage_usec 1000000\nuser_usec 600000\nsystem_usec 400000\n")
    with measured(_deployment(parties=tuple(groups))) as cost:
        (groups[1] / "cpu.stat").write_text("usage_usec 3500000\nuser_usec 600000\nsystem_usec 400000\n")
    assert cost.all_s == pytest.approx(2.5, abs=0.2)  # ksoftirqd of this machine may add a tick or two
    assert cost.proxies_s == 0


def test_the_machine_has_a_cgroup_that_counts() -> None:
    assert "usage_usec" in (cgroup2_root() / "cpu.stat").read_text()


def test_softirq_is_the_seventh_column_of_all_processors() -> None:
    text = "cpu  478222 0 114527 560977 1437 0 25551 2071 0 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n"
    assert parse_softirq(text) * os.sysconf("SC_CLK_TCK") == pytest.approx(25551)


def test_a_proxy_that_is_not_there_is_no_measurement() -> None:
    with pytest.raises(RunError, match="gone before the run"), measured(_deployment(2**22 + 1)):
        pass
    with pytest.raises(RunError, match="are gone"):
        pss_kib([2**22 + 1])


def test_memory_of_a_process() -> None:
    assert 1000 < pss_kib([os.getpid()]) < 10_000_000
