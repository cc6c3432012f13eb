"""How a workload's processes are shown."""

from __future__ import annotations

from typing import Any

import pytest

from control.kinds.workload import KIND, SelectorsSpec
from tests.support.mesh import workload

POD = "0ba7f3c2-6a1e-4d1c-9f8e-2c1f3a4b5d6e"
FORMS: list[tuple[dict[str, Any], str]] = [
    ({"systemdUnit": "nginx.service"}, "nginx.service"),
    ({"systemdUnit": "nginx.service", "uid": 33}, "nginx.service uid 33"),
    ({"cgroupPath": "/shop/web"}, "/shop/web"),
    ({"cgroupPath": "/shop/web", "uid": 0}, "/shop/web uid 0"),
    ({"containerId": "3f2a91c0d4e7"}, "container 3f2a91c0d4e7"),
    ({"containerLabels": {"tier": "front", "app": "web"}}, "containers app=web,tier=front"),
    ({"podUid": POD}, f"pod {POD}"),
]


@pytest.mark.parametrize(("selectors", "shown"), FORMS, ids=[shown for _, shown in FORMS])
def test_every_selector_is_shown(selectors: dict[str, Any], shown: str) -> None:
    document = KIND.model.model_validate(workload(selectors=selectors)).document()
    assert dict(KIND.columns)["PROCESSES"](document) == shown


def test_no_selector_is_left_out_above() -> None:
    written = {name for selectors, _ in FORMS for name in selectors}
    assert written == {field.alias for field in SelectorsSpec.model_fields.values()}


def test_a_selector_of_a_newer_control_is_shown_as_it_came() -> None:
    document = workload(selectors={"vmName": "web"})
    assert dict(KIND.columns)["PROCESSES"](document) == "vmName=web"
