"""Idle timeouts and splice switches: the narrowest that says something decides, and off anywhere wins."""

from __future__ import annotations

from typing import Any

import pytest

from control.wire.discovery import MESH_UID, MeshSettings
from nodeagent.flows.settings import FlowSettings
from nodeagent.state.view import NodeState
from nodeagent.telemetry.flow import FlowRecord, Reporter
from tests.support.objects import delta, gone, service, snapshot, workload

CLIENT = {"name": "client", "addresses": ("10.0.0.9",)}


def mesh(**says: Any) -> MeshSettings:
    return MeshSettings(uid=MESH_UID, domain="mesh.internal", **says)


class Desk:
    """Settings over a state that changes."""

    def __init__(self) -> None:
        self.state = NodeState()
        self.state.apply(snapshot(workload(**CLIENT), workload(), service()))
        self.settings = FlowSettings(self.state)
        self.record = FlowRecord(
            flow_id=1, reporter=Reporter.SOURCE, started=0.0, source=workload(**CLIENT), destination=workload(),
            service=service(),
        )  # fmt: skip

    def change(self, *items: object) -> bool:
        applied = self.state.apply(delta(*items, revision=self.state.revision + 1))
        return self.settings.changed(applied.changed)

    @property
    def timeout(self) -> tuple[int, str]:
        return self.settings.idle_timeout(self.record)


def test_nothing_is_cut_unless_somebody_says_so() -> None:
    desk = Desk()
    assert desk.timeout == (0, "the mesh")
    assert not desk.settings.cuts_idle_flows


def test_the_narrowest_that_says_something_decides() -> None:
    desk = Desk()
    said = []
    for item in (
        mesh(idle_timeout=5),
        workload(**CLIENT, idle_timeout=4),
        workload(idle_timeout=3),
        service(idle_timeout=2),
    ):
        desk.change(item)
        said.append(desk.timeout)
    assert said == [(5, "the mesh"), (4, "workload shop/client"), (3, "workload shop/web-0"), (2, "service shop/web")]
    desk.change(service(idle_timeout=0))
    assert desk.timeout == (0, "service shop/web"), "off is something said"
    desk.change(service(), workload())
    assert desk.timeout == (4, "workload shop/client")
    desk.change(gone(workload(**CLIENT)), gone(mesh()))
    assert desk.timeout == (0, "the mesh")


def test_it_knows_whether_anything_can_be_cut() -> None:
    desk = Desk()
    for item in (mesh(idle_timeout=1), workload(idle_timeout=1), service(idle_timeout=1)):
        desk.change(item)
        assert desk.settings.cuts_idle_flows
        desk.change(gone(item))
        assert not desk.settings.cuts_idle_flows
    desk.change(service(idle_timeout=0))
    assert not desk.settings.cuts_idle_flows


@pytest.mark.parametrize(
    ("off", "on", "who"),
    [
        (service(splice=False), service(), "service shop/web"),
        (workload(splice=False), workload(), "workload shop/web-0"),
        (workload(**CLIENT, splice=False), workload(**CLIENT), "workload shop/client"),
    ],
)
def test_off_anywhere_keeps_out(off: object, on: object, who: str) -> None:
    desk = Desk()
    assert desk.settings.switched_off(desk.record) == ""
    assert desk.change(off)
    assert desk.settings.switched_off(desk.record) == who
    assert desk.change(on)
    assert desk.settings.switched_off(desk.record) == ""


def test_only_a_turned_switch_is_told() -> None:
    desk = Desk()
    assert not desk.change(workload(labels={"a": "b"}), service(idle_timeout=3))
    assert desk.change(workload(splice=False), service(splice=False))
    assert not desk.change(workload(splice=False, labels={"a": "b"}))
    assert desk.change(gone(workload(splice=False)))


def test_what_the_state_held_before_counts() -> None:
    state = NodeState()
    state.apply(snapshot(workload(splice=False, idle_timeout=7), service()))
    settings = FlowSettings(state)
    record = Desk().record
    assert settings.switched_off(record) == "workload shop/web-0"
    assert settings.idle_timeout(record) == (7, "workload shop/web-0")


def test_the_service_says_how_long_a_dial_may_take_then_the_mesh() -> None:
    state = NodeState()
    settings = FlowSettings(state)
    assert settings.connect_timeout(None) == 3, "before control has said anything"
    state.apply(snapshot(mesh(connect_timeout=5)))
    assert settings.connect_timeout(service()) == settings.connect_timeout(None) == 5
    assert settings.connect_timeout(service(connect_timeout=7)) == 7
