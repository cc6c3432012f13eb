"""The doctor on a real node, and what it says when something is broken."""

from __future__ import annotations

import json
from typing import Any

from tests.netns import resources
from tests.netns.lab import BIN, Node, eventually
from tests.netns.servers import http_hello
from tests.netns.shop import TARGET_PORT, Shop


def examine(node: Node) -> tuple[int, list[dict[str, Any]]]:
    """Exit status and findings."""
    done = node.outside.run(BIN / "nodeagent", "doctor", "-o", "json", env=node.settings)
    assert done.stdout, done.stderr.decode()
    return done.returncode, json.loads(done.stdout)


def about(found: list[dict[str, Any]], area: str) -> list[dict[str, Any]]:
    return [item for item in found if item["area"] == area]


def test_a_node_that_is_well_is_told_so(shop: Shop) -> None:
    with shop.local.serve(http_hello):  # somebody runs in the workload's cgroup
        _, found = examine(shop.mesh.a)
    for area in ("privileges", "kernel", "cgroups", "ports", "control", "clock", "agent", "certificates"):
        assert all(item["level"] != "BAD" for item in about(found, area)) and about(found, area), (area, found)
    assert [item["level"] for item in about(found, "hooks")] == ["ok"], "our own programs are no neighbours"
    (mine,) = about(found, "workload shop/local")
    assert mine["level"] == "ok" and "captured" in mine["text"]


def test_a_selector_that_finds_nothing_is_told_with_its_remedy(shop: Shop) -> None:
    with shop.mesh.applied(resources.workload("ghost", shop.mesh.a.name, selectors={"systemdUnit": "ghost.service"})):
        eventually(lambda: about(examine(shop.mesh.a)[1], "workload shop/ghost"), what="the agent knows of it")
        status, found = examine(shop.mesh.a)
    (ghost,) = about(found, "workload shop/ghost")
    assert status == 1 and ghost["level"] == "BAD" and "ghost.service" in ghost["text"] and ghost["remedy"]


def test_it_explains_who_may_connect_and_why(shop: Shop) -> None:
    node = shop.mesh.a
    done = node.outside.run(BIN / "nodeagent", "explain", "shop/client", "shop/server", "-o", "json", env=node.settings)
    told = json.loads(done.stdout)
    assert done.returncode == 0 and told["verdict"] == "allowed"
    assert any(f":{TARGET_PORT}" in step["why"] for step in told["steps"])
