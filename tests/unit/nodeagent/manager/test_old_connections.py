"""When the old connections of a workload are looked at, and which."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Collection
from pathlib import Path

import pytest

from control.wire.address import packed_ip
from control.wire.discovery import Workload
from nodeagent.capture.reset import Outcome, Subject, Told, UnseenAgentError
from nodeagent.capture.standing import PAST, OldConnection, Way
from nodeagent.manager.old_connections import LOOKS, MAX_TOLD, OldConnections
from nodeagent.namespaces.sockets import TcpSocket
from nodeagent.state.view import NodeState
from tests.support.objects import snapshot, workload

LABEL = "nodemesh.io/old-connections"


class Node:
    """A node whose time passes when it is told to, and on which each look ends what is put down for it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.served = True
        self.looks: list[tuple[str, frozenset[Way]]] = []
        self.answer: Outcome | Exception = Outcome(())
        self.old = OldConnections("node-a", self.reset, lambda _: self.served, lambda: self.now)
        self.cgroups(7)

    def reset(self, subject: Subject, ways: Collection[Way]) -> Outcome:
        self.looks.append((subject.uid, frozenset(ways)))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def says(self, *workloads: Workload) -> None:
        state = NodeState()
        state.apply(snapshot(*workloads))
        self.old.changed(state)

    def cgroups(self, *numbers: int) -> None:
        self.old.enrolled(dict.fromkeys(numbers, "shop/web-0@1"), {number: Path("/c") for number in numbers})

    def step(self, times: int = 1) -> int:
        """Looks that were taken."""
        before = len(self.looks)
        for _ in range(times):
            asyncio.run(self.old.step())
        return len(self.looks) - before


@pytest.fixture
def node() -> Node:
    return Node()


def wants(wish: str, **more: str) -> Workload:
    return workload(labels={LABEL: wish, **more})


def test_nobody_is_looked_at_who_did_not_ask(node: Node) -> None:
    node.says(workload(), wants("keep"))
    assert node.step(3) == 0


def test_a_few_looks_for_each_change_of_cgroups(node: Node) -> None:
    node.says(wants("reset"))
    assert node.step(LOOKS + 3) == LOOKS
    assert set(node.looks) == {("shop/web-0@1", PAST)}
    node.cgroups(7, 8)
    assert node.step(LOOKS + 3) == LOOKS


def test_time_to_end_by_themselves(node: Node) -> None:
    node.says(wants("5m"))
    node.now = 10.0
    assert node.step() == 0
    node.now = 309.0
    assert node.step() == 0
    node.now = 310.1
    assert node.step() == 1


def test_not_before_new_ones_would_be_taken(node: Node) -> None:
    node.says(wants("reset"))
    node.served = False
    assert node.step() == 0
    node.served = True
    assert node.step() == 1


def test_who_leaves_loses_what_the_mesh_carries_for_it_as_a_client(node: Node) -> None:
    node.says(wants("reset", **{"nodemesh.io/capture": "off"}))
    node.step()
    assert node.looks == [("shop/web-0@1", frozenset({Way.CARRIED_OUT}))]


def told(count: int) -> tuple[Told, ...]:
    here = (packed_ip("10.0.0.1"), 4000)
    each = TcpSocket(2, 1, here, here, 1, 0, 0, b"")
    return tuple(itertools.repeat(Told(OldConnection(each, Way.PAST_OUT), 17, ended=True), count))


def test_what_was_reset_is_told_and_counted_within_bounds(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    node.says(wants("reset"))
    node.answer = Outcome(told(MAX_TOLD + 5))
    node.step()
    assert len(caplog.messages) == MAX_TOLD + 1 and "process 17" in caplog.messages[0]
    assert caplog.messages[-1] == "reset 5 more connections of shop/web-0@1"
    assert node.old.counts == {"past": MAX_TOLD + 5}


@pytest.mark.parametrize("error", [OSError("no room"), UnseenAgentError("cannot be seen")])
def test_what_goes_wrong_is_a_problem_until_it_goes_right(node: Node, error: Exception) -> None:
    node.says(wants("reset"))
    node.answer = error
    node.step()
    assert str(error) in node.old.problems["shop/web-0@1"]
    node.answer = Outcome(())
    node.step()
    assert node.old.problems == {}
