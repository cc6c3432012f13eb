"""What fails alone: control, an agent, the state on disk. In this mesh things are broken on purpose, and mended."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.client.journal import Journal
from nodeagent.client.statefile import _replace
from tests.netns.conftest import MakeShop
from tests.netns.lab import Node, eventually
from tests.netns.place import kill_all
from tests.netns.resources import policy
from tests.netns.servers import echo, read_all, roundtrip
from tests.netns.shop import PORT, Behind, Family, Shop
from tests.netns.test_doctor import examine
from tests.netns.test_policy import admitted, connected
from tests.support.pace import patient

REFUSED_WITHIN = patient(0.5)
"""Seconds in which a connection to a mesh without agent must fail: at once, not after retransmissions."""


@pytest.fixture(scope="module")
def shop(make_shop: MakeShop) -> Shop:
    """A mesh that may be broken."""
    return make_shop()


@pytest.fixture
def without_control(shop: Shop) -> Iterator[None]:
    """Control is killed for the time of a test."""
    shop.mesh.stop_control(signal.SIGKILL)
    yield
    shop.mesh.start_control()


def test_without_control_traffic_goes_on(shop: Shop, behind: Behind, family: Family) -> None:
    with behind.serve(echo), connected(shop, behind, shop.client, family) as connection:
        shop.mesh.stop_control(signal.SIGKILL)
        try:
            assert roundtrip(connection, b"still here" * 1000) == b"still here" * 1000
            assert admitted(shop, behind, shop.client, family)
            assert admitted(shop, behind, shop.other, family), "a connection that needs a new tunnel"
        finally:
            shop.mesh.start_control()
        assert roundtrip(connection, b"and on") == b"and on"


@pytest.mark.usefixtures("without_control")
def test_without_control_an_agent_starts_from_what_it_kept(shop: Shop, family: Family) -> None:
    for node in shop.mesh.nodes:
        node.stop_agent()
    for node in shop.mesh.nodes:
        node.start_agent()
    for node in shop.mesh.nodes:
        node.wait_ready()
    shop.mesh.wait_enrolled(shop.client, shop.server.spot)
    with shop.server.serve(echo):
        eventually(lambda: admitted(shop, shop.server, shop.client, family))


def test_control_is_followed_again_after_its_return(shop: Shop) -> None:
    deny = policy("deny-all", "DENY", app="server", rules=[{}])
    with shop.server.serve(echo):
        shop.mesh.stop_control(signal.SIGKILL)
        assert admitted(shop, shop.server, shop.client)
        shop.mesh.start_control()
        with shop.mesh.applied(deny):
            eventually(lambda: not admitted(shop, shop.server, shop.client), within=20)
        eventually(lambda: admitted(shop, shop.server, shop.client), within=20)


def test_killed_agent_of_the_client_fails_closed(shop: Shop, behind: Behind, family: Family) -> None:
    node = shop.mesh.a
    with behind.serve(echo), connected(shop, behind, shop.client, family) as connection:
        node.stop_agent(signal.SIGKILL)
        try:
            with pytest.raises(ConnectionResetError):
                read_all(connection)
            started = time.monotonic()
            with pytest.raises(ConnectionRefusedError):
                shop.dial(behind, family)
            assert time.monotonic() - started < REFUSED_WITHIN
            by_address = family.form(behind.node.v4, behind.node.v6)
            with pytest.raises(ConnectionRefusedError):
                shop.client.connect(by_address, 8080)
            _assert_other_traffic_passes(shop, family)
            _assert_the_doctor_knows(node)
        finally:
            node.start_agent()
            node.wait_ready()
        eventually(lambda: admitted(shop, behind, shop.client, family), within=20, what="the agent picked up its pins")


def _assert_the_doctor_knows(node: Node) -> None:
    """That capture goes on without its agent, and that its programs are nobody else's."""
    status, found = examine(node)
    told = {item["area"]: item for item in found}
    assert status == 1
    assert told["hooks"]["level"] == "ok", told["hooks"]
    assert told["capture"]["level"] == "BAD" and "nodeagent unload" in told["capture"]["remedy"]


def _assert_other_traffic_passes(shop: Shop, family: Family) -> None:
    listener = shop.mesh.b.outside.listen(9999)
    with listener, shop.client.connect(family.form(shop.mesh.b.v4, shop.mesh.b.v6), 9999) as connection:
        accepted, peer = listener.accept()
        accepted.close()
        assert peer[1] == connection.getsockname()[1], "somebody stood between"


def test_killed_agent_of_the_server_is_a_reset(shop: Shop, family: Family) -> None:
    node = shop.mesh.b
    with shop.server.serve(echo), connected(shop, shop.server, shop.client, family) as connection:
        node.stop_agent(signal.SIGKILL)
        try:
            with pytest.raises(ConnectionResetError):
                read_all(connection)
            with pytest.raises(ConnectionResetError), shop.dial(shop.server, family) as refused:
                read_all(refused)
        finally:
            node.start_agent()
            node.wait_ready()
        eventually(lambda: admitted(shop, shop.server, shop.client, family), within=20)


def test_a_killed_worker_is_replaced(shop: Shop, behind: Behind) -> None:
    node = shop.mesh.a
    assert node.agent is not None
    workers = [pid for pid in node.agent_processes() if pid != node.agent.pid]
    assert workers, "there are worker processes"
    with behind.serve(echo):
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: not set(workers) & set(node.agent_processes()))
        eventually(lambda: admitted(shop, behind, shop.client), within=20, what="new workers carry traffic")
    assert node.agent.poll() is None, "the manager lives"


def test_agents_restarted_in_order_leave_nothing_wrong(shop: Shop, behind: Behind, family: Family) -> None:
    node = shop.mesh.a
    assert node.stop_agent(signal.SIGTERM) == 0
    with pytest.raises(ConnectionRefusedError):
        shop.dial(behind, family)
    node.start_agent()
    node.wait_ready()
    with behind.serve(echo):
        eventually(lambda: admitted(shop, behind, shop.client, family), within=20)


def test_a_policy_that_has_not_arrived_denies(shop: Shop, family: Family) -> None:
    """The workload names a policy which the node does not hold: the state on disk is cut to make it so."""
    node, state = shop.mesh.b, shop.mesh.b.state_dir / "discovery.log"
    harmless = policy("harmless", "DENY", app="server", rules=[{"to": [{"operation": {"ports": ["1"]}}]}])
    with shop.server.serve(echo), shop.mesh.applied(harmless):
        eventually(lambda: b"harmless" in state.read_bytes(), what="the agent keeps its state on disk")
        eventually(lambda: admitted(shop, shop.server, shop.client, family))
        node.stop_agent()
        shop.mesh.stop_control()
        try:
            _cut_policies(state)
            node.start_agent()
            node.wait_ready()
            assert not admitted(shop, shop.server, shop.client, family)
            eventually(lambda: node.access(reason="policy-missing", dst_workload="server"), what="a line that says so")
        finally:
            shop.mesh.start_control()
    with shop.server.serve(echo):
        eventually(
            lambda: admitted(shop, shop.server, shop.client, family), within=30, what="nothing names it any more"
        )


def _cut_policies(state: Path) -> None:
    """Take every policy object out of an agent's saved state."""
    journal = Journal(state, _replace)
    held = journal.load()
    assert held is not None
    kept = [change for change in held.changes if change.kind != "policy"]
    assert len(kept) < len(held.changes), "there is a policy to take away"
    journal.replace(held, kept)


def test_unload_leaves_no_pin_and_no_hook(shop: Shop) -> None:
    node = shop.mesh.a
    node.stop_agent()
    assert list((shop.mesh.place.bpffs / "nodemesh" / node.name).iterdir()), "pins survive the agent"
    node.nodeagent("unload")
    assert not (shop.mesh.place.bpffs / "nodemesh" / node.name).exists()
    with pytest.raises(OSError, match="unreachable"):
        shop.client.connect(shop.server.v4, PORT)
    node.start_agent()
    node.wait_ready()
    shop.mesh.wait_enrolled(shop.client)
    with shop.server.serve(echo):
        eventually(lambda: admitted(shop, shop.server, shop.client), within=20)


def test_a_workload_that_restarts_is_still_itself(shop: Shop) -> None:
    """Its processes and its cgroup go and come back: the new cgroup has another id."""
    spot = shop.mesh.spot_of(shop.mesh.a, "other")
    kill_all(spot.cgroup)
    shop.other.close()
    eventually(lambda: spot.cgroup.rmdir() is None)
    spot.cgroup.mkdir()
    shop.mesh.wait_enrolled(shop.other)
    with shop.server.serve(echo):
        eventually(lambda: admitted(shop, shop.server, shop.other))
    assert shop.mesh.a.access(direction="outbound", src_workload="other", reason="ok")
