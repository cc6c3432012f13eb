"""The sweep for idle flows: never early, not much too late, a bounded part at a time, nothing where nobody asked."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest

from nodeagent.flows import idle
from nodeagent.flows.idle import MAX_LOOKS, ROUND_TICKS, IdleSweep
from nodeagent.flows.tracker import MAX_FLOWS
from nodeagent.reasons import Reason

pytestmark = pytest.mark.interpreted


@dataclass
class FakeFlow:
    """Carried something last at ``carried``; its record is its idle timeout."""

    carried: float
    record: int
    opened: bool = True
    done: bool = False
    looks: int = 0
    ended: tuple[Reason, str] | None = None

    def quiet(self, now: float) -> float:
        self.looks += 1
        return now - self.carried

    def cut(self, reason: Reason, detail: str) -> None:
        self.done, self.ended = True, (reason, detail)


@dataclass
class Settings:
    """Every flow's own timeout."""

    cuts_idle_flows: bool = True

    def idle_timeout(self, record: int) -> tuple[int, str]:
        return record, "service shop/web"


@dataclass
class Desk:
    """A worker's flows and its clock, a tick a second."""

    flows: dict[int, FakeFlow] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)
    now: float = 1000.0

    def __post_init__(self) -> None:
        self.sweep = IdleSweep(self.settings)  # type: ignore[arg-type]

    def flow(self, timeout: int) -> FakeFlow:
        flow = self.flows[len(self.flows)] = FakeFlow(self.now, timeout)
        return flow

    def tick(self, times: int = 1) -> int:
        cut = 0
        for _ in range(times):
            self.now += 1
            cut += self.sweep.tick(self.flows, self.now)  # type: ignore[arg-type]
            self.flows = {number: flow for number, flow in self.flows.items() if not flow.done}
        return cut


@pytest.mark.parametrize("others", [0, 1, 7, 1000])
@pytest.mark.parametrize("timeout", [1, 10, 3600])
def test_an_idle_flow_is_cut_in_time_and_never_early(timeout: int, others: int) -> None:
    desk = Desk()
    for _ in range(others):
        desk.flow(0)
    flow = desk.flow(timeout)
    assert desk.tick(timeout - 1) == 0
    assert desk.tick(2 * ROUND_TICKS + 1) == 1
    assert flow.ended is not None
    reason, detail = flow.ended
    assert reason is Reason.IDLE_TIMEOUT
    assert "service shop/web allows" in detail and f"{timeout} s" in detail


def test_an_active_flow_lives() -> None:
    desk = Desk()
    active, quiet = desk.flow(10), desk.flow(10)
    for _ in range(100):
        desk.tick()
        active.carried = desk.now
    assert not active.done
    assert quiet.done
    assert desk.tick(10 + 2 * ROUND_TICKS) == 1


def test_flows_that_may_be_idle_for_ever_are_not_looked_at() -> None:
    desk = Desk()
    flow = desk.flow(0)
    desk.tick(10_000)
    assert (flow.done, flow.looks) == (False, 0)


def test_flows_that_are_being_established_are_left_alone() -> None:
    desk = Desk()
    flow = desk.flow(5)
    flow.opened = False
    desk.tick(100)
    assert not flow.done


def test_a_flow_that_ended_meanwhile_is_not_cut() -> None:
    desk = Desk()
    flows = [desk.flow(5) for _ in range(20)]
    desk.tick()
    for number in range(1, 20):
        del desk.flows[number]
    assert desk.tick(50) == 1
    assert [flow.done for flow in flows] == [True] + [False] * 19


def test_where_nobody_set_a_timeout_no_flow_is_touched() -> None:
    desk = Desk(settings=Settings(cuts_idle_flows=False))
    flow = desk.flow(5)
    assert desk.tick(100) == 0
    assert flow.looks == 0
    desk.settings.cuts_idle_flows = True
    assert desk.tick(2 * ROUND_TICKS) == 1


def test_a_tick_looks_at_a_bounded_part_and_a_round_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle, "MAX_LOOKS", 10)
    desk = Desk()
    flows = [desk.flow(100) for _ in range(95)]
    done = 0
    for _ in range(10):
        desk.tick()
        looked = sum(flow.looks for flow in flows)
        assert looked - done <= 10
        done = looked
    assert {flow.looks for flow in flows} == {1}


def test_the_bound_of_flows_is_gone_through_within_a_minute() -> None:
    assert math.ceil(MAX_FLOWS / MAX_LOOKS) <= 60
