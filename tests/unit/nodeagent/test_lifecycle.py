from __future__ import annotations

import pytest

from nodeagent.lifecycle import Lifecycle, Phase


def running() -> Lifecycle:
    lifecycle = Lifecycle()
    lifecycle.advance(Phase.RUNNING)
    return lifecycle


def test_not_ready_before_it_runs_nor_while_it_drains() -> None:
    lifecycle = Lifecycle()
    assert lifecycle.blockers == {"phase": "the agent is starting"}
    lifecycle.advance(Phase.RUNNING)
    assert lifecycle.ready
    lifecycle.advance(Phase.DRAINING)
    assert lifecycle.blockers == {"phase": "the agent is draining"}


def test_a_blocker_blocks_for_as_long_as_it_has_something_to_say() -> None:
    lifecycle, why = running(), "nothing from control yet"
    lifecycle.blocks("state", lambda: why)
    assert lifecycle.blockers == {"state": "nothing from control yet"}
    why = ""
    assert lifecycle.ready


def test_a_warning_does_not_block() -> None:
    lifecycle = running()
    lifecycle.warns("control", lambda: "unreachable")
    assert lifecycle.ready
    assert lifecycle.warnings == {"control": "unreachable"}


def test_the_road_has_one_direction() -> None:
    lifecycle = running()
    with pytest.raises(ValueError, match="from running to starting"):
        lifecycle.advance(Phase.STARTING)
    with pytest.raises(ValueError, match="from running to stopped"):
        lifecycle.advance(Phase.STOPPED)
