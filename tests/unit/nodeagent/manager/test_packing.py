from __future__ import annotations

from nodeagent.channel import Load
from nodeagent.manager.packing import FLOWS_PER_WORKER, SHRINK_AFTER_SECONDS, Packing


def load(flows: int = 0, cpu: float = 0.0) -> Load:
    return Load(flows=flows, cpu_seconds=cpu)


def test_an_idle_node_uses_one_worker() -> None:
    packing = Packing(4)
    assert packing.decide([(1, load()), (2, load())], 10.0) == 1


def test_open_connections_bring_in_further_workers_at_once() -> None:
    packing = Packing(4)
    assert packing.decide([(1, load(FLOWS_PER_WORKER))], 0.0) == 1
    assert packing.decide([(1, load(FLOWS_PER_WORKER + 1))], 0.0) == 2
    assert packing.decide([(1, load(FLOWS_PER_WORKER * 9))], 0.0) == 4


def test_processor_time_brings_in_further_workers() -> None:
    packing = Packing(4)
    packing.decide([(1, load(8, cpu=100.0))], 0.0)
    assert packing.decide([(1, load(8, cpu=100.5))], 1.0) == 1
    assert packing.decide([(1, load(8, cpu=101.4))], 2.0) == 2


def test_a_short_sample_tells_nothing() -> None:
    packing = Packing(4)
    packing.decide([(1, load(8, cpu=1.0))], 0.0)
    assert packing.decide([(1, load(8, cpu=1.1))], 0.1) == 1


def test_a_replaced_worker_starts_from_nothing() -> None:
    packing = Packing(4)
    packing.decide([(1, load(8, cpu=50.0))], 0.0)
    assert packing.decide([(1, load(8, cpu=0.1))], 1.0) == 1


def test_fewer_are_used_only_after_a_while() -> None:
    packing = Packing(4)
    packing.decide([(1, load(FLOWS_PER_WORKER * 3))], 0.0)
    assert packing.decide([(1, load(1))], 1.0) == 3
    assert packing.decide([(1, load(1))], 1.0 + SHRINK_AFTER_SECONDS / 2) == 3
    assert packing.decide([(1, load(1))], 1.0 + SHRINK_AFTER_SECONDS) == 1


def test_a_peak_starts_the_wait_anew() -> None:
    packing = Packing(4)
    packing.decide([(1, load(FLOWS_PER_WORKER * 3))], 0.0)
    packing.decide([(1, load(1))], 1.0)
    packing.decide([(1, load(FLOWS_PER_WORKER * 3))], 20.0)
    assert packing.decide([(1, load(1))], 1.0 + SHRINK_AFTER_SECONDS) == 3


def test_workers_that_are_gone_are_forgotten() -> None:
    packing = Packing(2)
    for process in range(1000):
        packing.decide([(process, load(1, cpu=1.0))], float(process))
    assert len(packing._seen) == 1
