"""The splice as the manager sees it: when it is on, what it tells, and what becomes of dead workers' flows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control.wire.discovery import MESH_UID, DiscoveryObject, MeshSettings
from control.wire.watch import Change
from nodeagent.loader.errors import BpfError
from nodeagent.manager import splice
from nodeagent.manager.splice import MAX_EXCLUDED, MAX_LISTED, TESTING, TOO_EARLY, NodeSplice
from nodeagent.splice import selftest_run
from nodeagent.splice.controller import SpliceStatus
from nodeagent.splice.selftest import Item, Result, SelfTest
from nodeagent.state.view import NodeState
from tests.support.objects import change, service, snapshot, workload

NOBODY = {"workloads": [], "services": [], "stuck": {}, "more": 0}
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
        self._killed = ""
        self.legs_off = ""
        self.fails = False

    def obey(self, result: SelfTest) -> None:
        self._forbidden = result.off
        self.legs_off = result.legs_off

    def switch(self, *, on: bool, why: str = "switched off") -> None:
        if self.fails:
            raise BpfError("cannot configure the splice", 1)
        self.switches.append(on)
        self._killed = "" if on else why

    @property
    def reason(self) -> str:
        return self._forbidden or self._killed

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


class FakeRun:
    """Plays the self-test's process. ``found`` is None until it is through."""

    def __init__(self, found: SelfTest | None) -> None:
        self.found = found
        self.closed = False

    def wait(self, _seconds: float) -> SelfTest | None:
        return self.found

    def close(self) -> None:
        self.closed = True


Open = Callable[[SelfTest | FakeRun], tuple[NodeSplice, FakeController]]


@pytest.fixture
def kill_switch(tmp_path: Path) -> Path:
    return tmp_path / "default.splice-off"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kill_switch: Path) -> Open:
    """Open on a kernel of which the self-test finds this."""

    def opening(found: SelfTest | FakeRun) -> tuple[NodeSplice, FakeController]:
        controller = FakeController()
        monkeypatch.setattr(splice, "SpliceController", lambda *_: controller)
        test = found if isinstance(found, FakeRun) else FakeRun(found)
        monkeypatch.setattr(selftest_run, "begin", lambda *_: test)
        return NodeSplice.open(tmp_path, tmp_path, kill_switch, kill_switch.with_suffix(".splice-clear")), controller

    return opening


def mesh(**says: Any) -> MeshSettings:
    return MeshSettings(uid=MESH_UID, domain="mesh.internal", **says)


def told(*items: DiscoveryObject | Change) -> NodeState:
    """What control said."""
    state = NodeState()
    state.apply(snapshot(*items))
    return state


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
        ("nodemesh_splice_excluded_workloads",): 0,
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


def see_through(node: NodeSplice, test: FakeRun, found: SelfTest) -> None:
    """The self-test ends while the agent runs."""

    async def story() -> None:
        looking = asyncio.ensure_future(node.run())
        test.found = found
        async with asyncio.timeout(10):
            while node.reason == TESTING:
                await asyncio.sleep(0.001)
        looking.cancel()

    asyncio.run(story())


def test_a_slow_machine_relays_until_it_is_through(
    opened: Open, monkeypatch: pytest.MonkeyPatch, kill_switch: Path
) -> None:
    monkeypatch.setattr(splice, "LOOK_SECONDS", 0.001)
    test = FakeRun(None)
    node, controller = opened(test)
    heard: list[tuple[dict[str, str], str]] = []
    node.on_excluded = lambda workloads, everybody: heard.append((dict(workloads), everybody))
    node.tell_excluded()
    assert heard == [({}, TOO_EARLY)], "no worker hands anything to a kernel that has not shown what it does"
    assert (node.reason, node.possible) == (TESTING, True)
    assert (node.document()["on"], node.document()["why_not"]) == (False, TESTING)
    kill_switch.touch()
    node.applied(told(mesh(splice=False)), "node-a")
    assert controller.switches == [], "what stops flows would fail the self-test"
    node.applied(told(mesh()), "node-a")
    kill_switch.unlink()
    see_through(node, test, PASSED)
    assert (node.reason, heard[1:], controller.switches) == ("", [({}, "")], [True])
    assert node.document()["self_test"]["items"]["bulk"] == "pass"


def test_what_was_switched_off_meanwhile_is_off_when_it_is_through(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splice, "LOOK_SECONDS", 0.001)
    test = FakeRun(None)
    node, controller = opened(test)
    node.applied(told(mesh(splice=False)), "node-a")
    see_through(node, test, PASSED)
    assert node.reason == "switched off in the whole mesh (MeshConfig)"
    assert controller.switches == [False]


def test_a_slow_machine_that_fails_keeps_everybody_out(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splice, "LOOK_SECONDS", 0.001)
    test = FakeRun(None)
    node, _ = opened(test)
    heard: list[str] = []
    node.on_excluded = lambda _, everybody: heard.append(everybody)
    see_through(node, test, FAILED)
    assert "octets were lost" in node.reason
    assert not node.possible
    assert heard == [node.reason]


def test_an_agent_that_stops_takes_the_self_test_with_it(opened: Open) -> None:
    test = FakeRun(None)
    node, controller = opened(test)
    node.close()
    assert test.closed
    assert controller.closed


def test_a_kernel_that_lacks_something_does_not_stop_the_agent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kill_switch: Path
) -> None:
    def missing(*_: object) -> None:
        raise BpfError("this kernel has no sock_recv_length", 2)

    monkeypatch.setattr(splice, "SpliceController", missing)
    node = NodeSplice.open(tmp_path, tmp_path, kill_switch, tmp_path / "clear")
    assert "sock_recv_length" in node.reason
    off = {"on": False, "why_not": node.reason, "legs_why_not": node.reason, "kept_out": NOBODY}
    assert node.document() == off
    assert values(node) == {("nodemesh_splice_on",): 0, ("nodemesh_splice_excluded_workloads",): 0}
    node.applied(told(mesh(splice=False)), "node-a")
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
    off = {"on": False, "why_not": "no capture", "legs_why_not": "no capture", "kept_out": NOBODY}
    assert NodeSplice.off("no capture").document() == off


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


def test_the_mesh_switches_every_node(opened: Open, kill_switch: Path) -> None:
    node, controller = opened(PASSED)
    node.applied(told(mesh(splice=False)), "node-a")
    assert node.reason == "switched off in the whole mesh (MeshConfig)"
    assert node.possible, "workers prepare flows all the same, for when it is switched on"
    node.applied(told(mesh(splice=False)), "node-a")
    node.applied(told(mesh()), "node-a")
    assert node.reason == ""
    assert controller.switches == [True, False, True], "switched when it was turned, not at each batch"
    kill_switch.touch()
    node.applied(told(mesh()), "node-a")
    assert node.reason == "switched off"
    node.applied(told(change(mesh(), splice=3)), "node-a")
    kill_switch.unlink()
    node.applied(told(change(mesh(), splice=3)), "node-a")
    assert node.reason == "the mesh's settings cannot be read"
    node.applied(told(), "node-a")
    assert node.reason == "", "an older control says nothing of it"


def test_a_switch_that_the_kernel_refuses_is_tried_again(opened: Open) -> None:
    node, controller = opened(PASSED)
    controller.fails = True
    node.applied(told(mesh(splice=False)), "node-a")
    assert node.reason == ""
    controller.fails = False
    node.applied(told(mesh(splice=False)), "node-a")
    assert "whole mesh" in node.reason


def test_who_is_kept_out_is_told(opened: Open) -> None:
    node, _ = opened(PASSED)
    state = told(
        workload("quiet", splice=False), workload("elsewhere", node="node-b", splice=False, addresses=("10.0.0.9",)),
        workload("loud", addresses=("10.0.0.8",)), service(), service("db", addresses=("240.240.0.11",), splice=False),
    )  # fmt: skip
    node.applied(state, "node-a")
    node.exclude({"shop/go@1": "out splice"})
    kept = node.document()["kept_out"]
    assert kept == {
        "workloads": ["shop/quiet@1"], "services": ["shop/db"], "stuck": {"shop/go@1": "out splice"}, "more": 0,
    }  # fmt: skip
    node.exclude({f"shop/{number}@1": "out splice" for number in range(MAX_LISTED + 4)})
    kept = node.document()["kept_out"]
    assert (len(kept["stuck"]), kept["more"]) == (MAX_LISTED, 5)


def test_exclusions_are_told_to_every_worker_and_bounded(opened: Open) -> None:
    node, _ = opened(PASSED)
    heard: list[dict[str, str]] = []
    node.on_excluded = lambda workloads, _: heard.append(dict(workloads))
    node.exclude({"shop/a@1": "x"})
    node.exclude({"shop/b@1": "y"})
    assert heard == [{"shop/a@1": "x"}, {"shop/a@1": "x", "shop/b@1": "y"}]
    node.exclude({f"shop/{number}@1": "z" for number in range(MAX_EXCLUDED - 1)})
    assert len(heard[-1]) == MAX_EXCLUDED
    assert "shop/a@1" not in heard[-1] and "shop/b@1" in heard[-1], "the oldest goes"
    assert values(node)["nodemesh_splice_excluded_workloads",] == MAX_EXCLUDED


def test_clear_gives_them_another_try(opened: Open, kill_switch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splice, "LOOK_SECONDS", 0.001)
    node, _ = opened(PASSED)
    cleared = asyncio.Event()
    node.exclude({"shop/a@1": "x"})
    node.on_excluded = lambda workloads, _: None if workloads else cleared.set()
    switch = kill_switch.with_suffix(".splice-clear")
    switch.touch()

    async def story() -> None:
        looking = asyncio.ensure_future(node.run())
        async with asyncio.timeout(10):
            await cleared.wait()
        looking.cancel()

    asyncio.run(story())
    assert not switch.exists()
    assert node.document()["kept_out"] == NOBODY


def test_rows_of_flows_say_that_the_whole_node_is_off(opened: Open, kill_switch: Path) -> None:
    rows = [{"relayed_because": None}, {"relayed_because": ""}, {"relayed_because": "a program blocks in recv()"}]
    node, _ = opened(PASSED)
    assert node.annotate({"flows": [dict(row) for row in rows]}) == {"flows": rows}
    kill_switch.touch()
    node.applied(told(), "node-a")
    told_rows = node.annotate({"flows": [dict(row) for row in rows]})["flows"]
    assert [row["relayed_because"] for row in told_rows] == [None, "switched off", "switched off"]


def test_close_takes_the_programs_out(opened: Open) -> None:
    node, controller = opened(PASSED)
    node.close()
    assert controller.closed
