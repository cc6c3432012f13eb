"""When a program that is held back may go on, and when it is given up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nodeagent.cli import hold as room
from nodeagent.cli.hold import Held, RefusedError, hold

HELD = Held(frozenset({1, 7}), 4026532500, "container box")
PLACE = {"inode": 4026532500, "served": True}
MINE = {"cgroups": [7], "network_namespaces": [PLACE], "problems": []}
OTHER = {"cgroups": [9], "network_namespaces": [PLACE], "problems": ["cgroup 7 is selected by a and b: refused"]}


def agent(*workloads: list[dict[str, Any]] | None, looks: Callable[[], int] = lambda: 0) -> Callable[[str], Any]:
    """Answers in turn, the last one for ever; None: it does not answer."""
    turns = list(workloads)

    def ask(document: str) -> Any:
        if document == "enrolment":
            return {"looks": looks()}
        answer = turns.pop(0) if len(turns) > 1 else turns[0]
        if answer is None:
            raise ConnectionRefusedError(111, "refused")
        return answer

    return ask


def refusal(ask: Callable[[str], Any], *, optional: bool = False) -> str:
    with pytest.raises(RefusedError) as caught:
        hold(HELD, "here", ask, 0, optional=optional)
    return str(caught.value)


def test_it_goes_on_when_it_is_captured_and_its_namespace_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "STEP_SECONDS", 0)
    hold(HELD, "here", agent(None, [], [{**MINE, "network_namespaces": []}], [MINE]), 20)


def test_why_it_is_given_up() -> None:
    assert "no workload of this node selects the cgroup of container box" in refusal(agent([]))
    assert "no agent answers on here" in refusal(agent(None))
    assert "cgroup 7 is selected by a and b" in refusal(agent([OTHER]))
    unserved = {**MINE, "network_namespaces": [{**PLACE, "served": False}]}
    assert "does not listen in network namespace 4026532500" in refusal(agent([unserved]))
    assert "does not listen" in refusal(agent([{**MINE, "network_namespaces": [{**PLACE, "inode": 1}]}]))


def test_where_it_is_optional_only_a_look_that_began_later_lets_it_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "STEP_SECONDS", 0)
    counted = iter(range(5, 100))
    asked: list[int] = []

    def looks() -> int:
        asked.append(next(counted))
        return asked[-1]

    hold(HELD, "here", agent([], looks=looks), 20, optional=True)
    assert asked == [5, 6, 7]
    assert "no workload" in refusal(agent([]), optional=True)
    assert "no agent" in refusal(agent(None), optional=True)
    assert "selected by a and b" in refusal(agent([OTHER], looks=looks), optional=True)
