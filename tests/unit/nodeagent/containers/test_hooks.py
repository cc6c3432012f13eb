"""What a hook reads on its standard input, and what becomes of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nodeagent.containers.facts import StateError
from nodeagent.containers.hooks import creation, parse_state
from tests.unit.nodeagent.containers.made import put

STATE = {
    "ociVersion": "1.0.2-dev", "id": "one", "status": "creating", "pid": 4711, "bundle": "/b",
    "annotations": {"app": "web"},
}  # fmt: skip


def test_what_runc_tells() -> None:
    assert parse_state(json.dumps(STATE)) == ("one", 4711, Path("/b"), {"app": "web"})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ("[" * 200_000, "not JSON"),
        ("[]", "no id"),
        (json.dumps({**STATE, "id": "../x"}), "no id"),
        (json.dumps({**STATE, "id": ".x"}), "no id"),
        (json.dumps({**STATE, "pid": 0}), "createRuntime"),
        (json.dumps({"id": "one"}), "createRuntime"),
    ],
)
def test_what_is_no_state_of_a_container_that_is_being_created(text: str, why: str) -> None:
    with pytest.raises(StateError, match=why):
        parse_state(text)


def test_the_cgroup_is_the_process_s_and_annotations_are_the_bundle_s_too(tmp_path: Path) -> None:
    put(tmp_path / "bundle/config.json", {"annotations": {"tier": "x", "app": "older"}})
    own = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    text = json.dumps({**STATE, "pid": os.getpid(), "bundle": str(tmp_path / "bundle")})
    place = tmp_path / own.lstrip("/")
    place.mkdir(parents=True, exist_ok=True)
    if own == "/":
        with pytest.raises(StateError, match="no cgroup of its own"):
            creation(text, tmp_path)
        return
    made = creation(text, tmp_path)
    assert (made.id, made.cgroup, made.cgroup_id) == ("one", own, place.stat().st_ino)
    assert made.labels == {"tier": "x", "app": "web"}


def test_a_process_that_is_gone() -> None:
    with pytest.raises(StateError, match="process 2147483647 cannot be looked at"):
        creation(json.dumps({**STATE, "pid": 2147483647}), Path("/"))
