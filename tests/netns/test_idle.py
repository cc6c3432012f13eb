"""Idle timeouts: a flow that carries nothing for longer than it may is reset, whatever path it takes; others live."""

from __future__ import annotations

import select
from collections.abc import Iterator
from contextlib import contextmanager

from tests.netns.lab import eventually
from tests.netns.resources import mesh_config
from tests.netns.shop import Family, Shop
from tests.netns.spliced import Pair, assert_reset, connected
from tests.netns.spot import IO_SECONDS

WITHIN = 30.0
"""Seconds until a timeout of one second has cut: the sweep goes round in about five, on a loaded machine in more."""


@contextmanager
def every_path(shop: Shop, family: Family) -> Iterator[dict[str, list[Pair]]]:
    """Two flows of each kind, of which all carried something."""
    with connected(shop, shop.local, family, 2, seconds=None) as relayed:  # who blocks in recv() is relayed
        for flow in relayed:
            flow.exchange()
        with _of_the_others(shop, family) as (spliced, remote):
            yield {"relayed": relayed, "spliced": spliced, "cross-node": remote}


@contextmanager
def _of_the_others(shop: Shop, family: Family) -> Iterator[tuple[list[Pair], list[Pair]]]:
    with (
        connected(shop, shop.local, family, 2, seconds=IO_SECONDS) as spliced,
        connected(shop, shop.server, family, 2, seconds=IO_SECONDS) as remote,
    ):
        for flow in spliced:
            flow.splice()
        for flow in remote:
            flow.exchange()
        yield spliced, remote


def test_the_idle_flow_is_reset_and_the_active_one_lives(shop: Shop, family: Family) -> None:
    a, b = shop.mesh.a, shop.mesh.b
    since = {node: node.access_position() for node in (a, b)}
    with every_path(shop, family) as flows:
        active = [pair[0] for pair in flows.values()]
        idle = {kind: pair[1] for kind, pair in flows.items()}
        ways = [row["relayed_because"] for row in a.nodeagent("flows", "-o", "json")["flows"]]
        assert (ways.count(""), ways.count(None), len(ways)) == (2, 2, 6), ways
        with shop.mesh.applied(mesh_config(idleTimeout="1s")):
            eventually(lambda: _all_reset(active, idle), within=WITHIN, what="the idle flows are reset")
            for flow in active:
                flow.exchange()
        for flow in idle.values():
            assert_reset(flow.server)
        for flow in active:
            flow.exchange()
        for kind, flow in idle.items():
            for node in (a, b) if kind == "cross-node" else (a,):
                lines = [x for x in node.access(since=since[node]) if x["src.addr"].endswith(flow.port)]
                assert [line["reason"] for line in lines] == ["idle-timeout"] * (1 if kind == "cross-node" else 2), kind
    counted = [s for s in a.metrics() if s.name == "nodemesh_errors_total" and s.labels["reason"] == "idle-timeout"]
    assert counted[0].value >= 5


def _all_reset(active: list[Pair], idle: dict[str, Pair]) -> bool:
    """Whether every idle flow was reset; the active ones carry something meanwhile."""
    for flow in active:
        flow.exchange()
    readable = select.select([flow.client for flow in idle.values()], [], [], 0.05)[0]
    if len(readable) < len(idle):
        return False
    for flow in idle.values():
        assert_reset(flow.client)
    return True


def test_the_narrowest_that_says_something_decides(shop: Shop) -> None:
    """The mesh cuts, a service says never: its flow is still there when two others went one after the other."""
    with (
        shop.labelled(shop.local, idle_timeout="off"),
        shop.mesh.applied(mesh_config(idleTimeout="1s")),
        connected(shop, shop.local, Family.V4, 1, seconds=IO_SECONDS) as (kept,),
    ):
        kept.exchange()
        for _ in range(2):
            with connected(shop, shop.server, Family.V4, 1, seconds=WITHIN) as (cut,):
                cut.exchange()
                assert_reset(cut.client, WITHIN)
        kept.exchange()
    with (
        shop.labelled(shop.local, idle_timeout="1s"),
        connected(shop, shop.local, Family.V4, 1, seconds=WITHIN) as (cut,),
    ):
        cut.exchange()
        assert_reset(cut.client, WITHIN)
