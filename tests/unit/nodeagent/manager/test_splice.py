"""The splice as the manager sees it: when it is on, what it tells, and what becomes of dead workers' flows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from nodeagent.loader.errors import BpfError
from nodeagent.manager import splice
from nodeagent.manager.splice import NodeSplice
from nodeagent.splice import selftest
from nodeagent.splice.controller import SpliceStatus
from nodeagent.splice.selftest import Item, Result, SelfTest

PASSED = SelfTest((Item("bulk", Result.PASS), Item("multipath", Result.ABSENT, "no MPTCP")), 0.4)
FAILED = SelfTest((Item("bulk", Result.FAIL, "octets were lost"),), 0.4)


class FakeController:
    """Plays the programs in force."""

    limit = 100

    def __init__(self) -> None:
        self.swept: list[int | None] = []
        self.switches: list[bool] = []
        self.closed = False
        self._forbidden = ""
        self._killed = False

    def obey(self, result: SelfTest) -> None:
        self._forbidden = result.off

    def switch(self, *, on: bool) -> None:
        self.switches.append(on)
        self._killed = not on

    @property
    def reason(self) -> str:
        return self._forbidden or ("switched off" if self._killed else "")

    def sweep(self, gone: int | None = None) -> int:
        self.swept.append(gone)
        return 0

    def queued(self) -> int:
        return 5

    def counters(self) -> dict[str, int]:
        return {"spliced": 2, "cap": 0}

    def status(self) -> SpliceStatus:
        return SpliceStatus(
            running=not self.reason, reason=self.reason, flows=3, queued=5, limit=100, cap=1000,
            counters=self.counters(),
        )  # fmt: skip

    def close(self) -> None:
        self.closed = True


Open = Callable[[SelfTest], tuple[NodeSplice, FakeController]]


@pytest.fixture
def kill_switch(tmp_path: Path) -> Path:
    return tmp_path / "default.splice-off"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kill_switch: Path) -> Open:
    """Open on a kernel of which the self-test finds this."""

    def opening(found: SelfTest) -> tuple[NodeSplice, FakeController]:
        controller = FakeController()
        monkeypatch.setattr(splice, "SpliceController", lambda *_: controller)
        monkeypatch.setattr(selftest, "run", lambda *_: found)
        return NodeSplice.open(tmp_path, tmp_path, kill_switch), controller

    return opening


def values(node: NodeSplice) -> dict[tuple[str, ...], float]:
    return {(sample.name, *sample.labels.values()): sample.value for sample in node.samples()}


def test_a_kernel_that_passes_is_used_and_told(opened: Open) -> None:
    node, _ = opened(PASSED)
    assert node.reason == ""
    document = node.document()
    assert (document["on"], document["flows"], document["queued_bytes"]) == (True, 3, 5)
    assert document["counters"] == {"spliced": 2}
    assert document["self_test"] == {"seconds": 0.4, "items": {"bulk": "pass", "multipath": "not available: no MPTCP"}}
    assert values(node) == {
        ("nodemesh_splice_on",): 1,
        ("nodemesh_splice_queued_bytes",): 5,
        ("nodemesh_splice_total", "spliced"): 2,
        ("nodemesh_splice_total", "cap"): 0,
        ("nodemesh_splice_self_test", "bulk", "pass"): 1,
        ("nodemesh_splice_self_test", "multipath", "not available"): 1,
    }


def test_a_kernel_that_fails_is_not_used_and_the_reason_is_told(opened: Open) -> None:
    node, _ = opened(FAILED)
    assert "octets were lost" in node.reason
    assert not node.possible
    assert node.document()["why_not"] == node.reason
    assert node.document()["self_test"]["items"] == {"bulk": "fail: octets were lost"}
    assert values(node)["nodemesh_splice_on",] == 0


def test_a_kernel_that_lacks_something_does_not_stop_the_agent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kill_switch: Path
) -> None:
    def missing(*_: object) -> None:
        raise BpfError("this kernel has no sock_recv_length", 2)

    monkeypatch.setattr(splice, "SpliceController", missing)
    node = NodeSplice.open(tmp_path, tmp_path, kill_switch)
    assert "sock_recv_length" in node.reason
    assert node.document() == {"on": False, "why_not": node.reason}
    assert values(node) == {("nodemesh_splice_on",): 0}
    node.workers([1])
    node.workers([])
    node.close()


def test_a_guard_that_cannot_be_attached_does_not_stop_the_agent(monkeypatch: pytest.MonkeyPatch, opened: Open) -> None:
    monkeypatch.setattr(FakeController, "obey", _unguarded)
    node, controller = opened(PASSED)
    assert "tracepoint" in node.reason
    assert not node.possible
    assert controller.closed


def _unguarded(_: FakeController, _found: SelfTest) -> None:
    raise BpfError("cannot attach to a tracepoint", 1)


def test_off_says_why() -> None:
    assert NodeSplice.off("no capture").document() == {"on": False, "why_not": "no capture"}


def test_flows_of_dead_workers_are_let_go_once(opened: Open) -> None:
    node, controller = opened(PASSED)
    node.workers([10, 11])
    assert controller.swept == []
    node.workers([11, 12])
    assert controller.swept == [10]
    node.workers([11, 12])
    node.workers([])
    assert controller.swept[0] == 10 and sorted(filter(None, controller.swept[1:])) == [11, 12]


def test_while_the_kill_switch_exists_nothing_is_spliced(opened: Open, kill_switch: Path) -> None:
    kill_switch.touch()
    node, _ = opened(PASSED)
    assert node.reason == "switched off"
    assert node.possible, "workers prepare flows all the same, for when it is switched on"


def test_the_kill_switch_is_obeyed_while_it_runs(
    opened: Open, kill_switch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splice, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(splice, "LOOKS_A_SWEEP", 2)
    node, controller = opened(PASSED)

    async def until(reason: str) -> None:
        async with asyncio.timeout(10):
            while node.reason != reason:
                await asyncio.sleep(0.001)

    async def story() -> None:
        looking = asyncio.ensure_future(node.run())
        kill_switch.touch()
        await until("switched off")
        kill_switch.unlink()
        await until("")
        async with asyncio.timeout(10):
            while len(controller.swept) < 2:
                await asyncio.sleep(0.001)
        looking.cancel()

    asyncio.run(story())
    assert controller.switches[-2:] == [False, True]
    assert set(controller.swept) == {None}, "it sweeps on its way"


def test_close_takes_the_programs_out(opened: Open) -> None:
    node, controller = opened(PASSED)
    node.close()
    assert controller.closed
