"""What becomes of spliced flows when the agent, a worker or a reader fails: a reset, at once, at both ends."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.netns.conftest import MakeShop
from tests.netns.lab import eventually
from tests.netns.servers import echo
from tests.netns.shop import Family, Shop
from tests.netns.spliced import ENDS_WITHIN, assert_reset, pair, redirected, spliced, transfer
from tests.netns.test_policy import admitted


@pytest.fixture(scope="module")
def breakable(make_shop: MakeShop) -> Shop:
    """A mesh whose agents may be killed."""
    return make_shop()


def test_a_killed_agent_is_a_reset_for_both_ends(breakable: Shop, family: Family) -> None:
    """Of idle flows, and of one whose bytes wait unread."""
    node = breakable.mesh.a
    with spliced(breakable, family) as flow:
        flow.client.sendall(b"u" * 500_000)
        began = time.monotonic()
        node.stop_agent(signal.SIGKILL)
        try:
            assert_reset(flow.server)
            assert_reset(flow.client)
            assert time.monotonic() - began < ENDS_WITHIN
        finally:
            node.start_agent()
            node.wait_ready()
    _until_served(breakable, family)
    with spliced(breakable, family):
        pass


def test_a_killed_worker_is_a_reset_for_both_ends(breakable: Shop, family: Family) -> None:
    node = breakable.mesh.a
    assert node.agent is not None
    workers = [pid for pid in node.agent_processes() if pid != node.agent.pid]
    with spliced(breakable, family) as flow:
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        assert_reset(flow.client)
        assert_reset(flow.server)
    _until_served(breakable, family)
    with spliced(breakable, family):
        pass
    assert node.agent.poll() is None, "the manager lives"
    eventually(lambda: _known_flows(breakable) == 0, what="flows of dead workers are let go")


def _until_served(shop: Shop, family: Family) -> None:
    with shop.local.serve(echo):
        eventually(lambda: admitted(shop, shop.local, shop.client, family), within=20, what="new flows are served")


def _known_flows(shop: Shop) -> int:
    flows: int = shop.mesh.a.nodeagent("status", "-o", "json")["splice"]["flows"]
    return flows


def test_a_stopped_agent_leaves_nothing_of_the_splice(breakable: Shop) -> None:
    node = breakable.mesh.a
    with spliced(breakable):
        pass
    assert node.stop_agent() == 0
    try:
        assert not list((breakable.mesh.place.bpffs / "nodemesh" / node.name).glob("splice/*/*"))
    finally:
        node.start_agent()
        node.wait_ready()


def test_a_reader_that_cannot_see_its_bytes_is_reset_once(breakable: Shop) -> None:
    """It changes to splice(2) in mid-stream. Later flows of the same workloads are relayed, and are served so."""
    node = breakable.mesh.a
    _until_served(breakable, Family.V4)
    since = node.access_position()
    reading, writing = os.pipe()
    try:
        with spliced(breakable) as flow:
            flow.client.sendall(b"first")
            flow.server.setblocking(False)
            with pytest.raises((BlockingIOError, ConnectionResetError)):
                os.splice(flow.server.fileno(), writing, 5)
            assert_reset(flow.client)
        lines = eventually(lambda: node.access(since=since, reason="splice-stuck"))
        assert {(line["src.workload"], line["dst.workload"]) for line in lines} == {("client", "local")}
    finally:
        os.close(reading)
        os.close(writing)
        node.stop_agent()  # it remembers which workloads to keep out
        node.start_agent()
        node.wait_ready()
