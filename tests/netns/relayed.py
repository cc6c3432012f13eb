"""What the stories of the splice prove on a kernel that cannot: the agent says why, and carries every byte itself."""

from __future__ import annotations

import os

from tests.netns.shop import Family, Shop
from tests.netns.spliced import metric, pair, redirected, transfer
from tests.support.degraded import says_why

SIZE = 1_000_000


def assert_degraded(shop: Shop, family: Family) -> None:
    """Nothing goes the short way; status, its text for people and the metric tell it."""
    node = shop.mesh.a
    told = node.nodeagent("status", "-o", "json")["splice"]
    assert not told["on"]
    says_why(told["why_not"])
    assert "relayed in userspace" in node.nodeagent("status")
    assert metric(shop.mesh, "nodemesh_splice_on") == 0
    data = os.urandom(SIZE)
    with pair(shop, family) as flow:
        for _ in range(5):
            flow.exchange()
        assert transfer(flow.client, flow.server, data) == data
        assert transfer(flow.server, flow.client, data) == data
    assert redirected(shop) == 0
