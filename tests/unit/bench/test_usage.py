from __future__ import annotations

import os

import pytest

from tests.bench.figures import RunError
from tests.bench.usage import Stat, measured, parse_stat, pss_kib, tree

LINE = "4711 ({name}) S 12 4711 4711 0 -1 4194560 900 80 0 0 {user} {system} {child_user} {child_system} 20 0 5 0 999"


@pytest.mark.parametrize("name", ["envoy", "a b", "x) S 1 (y", ")", "("])
def test_stat_adds_own_and_waited_for_time_whatever_the_name(name: str) -> None:
    text = LINE.format(name=name, user=100, system=20, child_user=3, child_system=4)
    assert parse_stat(text) == Stat(pid=4711, parent=12, ticks=127)


def test_a_tree_is_the_roots_and_their_descendants() -> None:
    parents = {1: 0, 10: 1, 11: 10, 12: 11, 20: 1, 21: 20}
    stats = {pid: Stat(pid, parent, 0) for pid, parent in parents.items()}
    assert tree([10], stats) == {10, 11, 12}
    assert tree([10, 20], stats) == {10, 11, 12, 20, 21}
    assert tree([99], stats) == frozenset()


def test_the_cpu_of_a_run_is_counted() -> None:
    with measured([os.getpid()], []) as cost:
        end = os.times().user + 0.2
        while os.times().user < end:
            pass
    assert 0.15 <= cost.cpu_s < 5


def test_a_proxy_that_is_not_there_is_no_measurement() -> None:
    with pytest.raises(RunError, match="gone before the run"), measured([2**22 + 1], []):
        pass
    with pytest.raises(RunError, match="are gone"):
        pss_kib([2**22 + 1])


def test_memory_of_a_process() -> None:
    assert 1000 < pss_kib([os.getpid()]) < 10_000_000
