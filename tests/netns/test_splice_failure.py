"""What becomes of spliced flows when the agent, a worker or a reader fails: a reset, at once, at both ends."""

from __future__ import annotations

import os
import signal
import socket
import time

import pytest

from tests.netns.conftest import MakeShop
from tests.netns.lab import eventually
from tests.netns.servers import echo, read_all, read_exactly
from tests.netns.shop import PORT, Family, Shop
from tests.netns.spliced import ENDS_WITHIN, Pair, Stream, assert_reset, connected, pair, redirected, spliced, transfer
from tests.netns.spot import IO_SECONDS
from tests.netns.test_policy import admitted
from tests.support.pace import patient

pytestmark = pytest.mark.splice


@pytest.fixture(scope="module")
def breakable(make_shop: MakeShop) -> Shop:
    """A mesh whose agents may be killed; one worker has all flows."""
    return make_shop(agent_settings={"NODEMESH_WORKERS": "1"})


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
            assert time.monotonic() - began < patient(ENDS_WITHIN)
        finally:
            node.start_agent()
            node.wait_ready()
    _until_served(breakable, family)
    with spliced(breakable, family):
        pass


def test_a_killed_worker_is_a_reset_for_both_ends(breakable: Shop, family: Family) -> None:
    node = breakable.mesh.a
    assert node.agent is not None
    with spliced(breakable, family) as flow:
        _kill_workers(breakable)
        assert_reset(flow.client)
        assert_reset(flow.server)
    _until_served(breakable, family)
    with spliced(breakable, family):
        pass
    assert node.agent.poll() is None, "the manager lives"
    eventually(lambda: _known_flows(breakable) == 0, what="flows of dead workers are let go")


def _kill_workers(shop: Shop) -> None:
    node = shop.mesh.a
    assert node.agent is not None
    for pid in node.agent_processes():
        if pid != node.agent.pid:
            os.kill(pid, signal.SIGKILL)


def test_a_worker_killed_in_mid_stream_never_looks_like_an_end(breakable: Shop) -> None:
    with spliced(breakable) as flow, Stream(flow.client, flow.server) as up, Stream(flow.server, flow.client) as down:
        for stream in (up, down):
            assert stream.flowing.wait(IO_SECONDS)
        _kill_workers(breakable)
        for stream in (up, down):
            stream.join()
            assert isinstance(stream.read_error, ConnectionResetError), repr(stream.read_error)
            assert isinstance(stream.sent_error, (ConnectionResetError, BrokenPipeError)), repr(stream.sent_error)
    _until_served(breakable, Family.V4)


def test_a_spliced_flow_may_end_in_order_while_the_agent_stops(breakable: Shop) -> None:
    node = breakable.mesh.a
    assert node.agent is not None
    try:
        with spliced(breakable) as flow:
            flow.client.sendall(b"w" * 500_000)
            node.agent.send_signal(signal.SIGTERM)
            eventually(lambda: _refused(breakable), what="the agent takes no more connections")
            assert read_exactly(flow.server, 500_000) == b"w" * 500_000
            flow.exchange(b"e" * 1000)
            flow.client.shutdown(socket.SHUT_WR)
            assert read_all(flow.server) == b""
            flow.server.sendall(b"the last word")
            flow.server.shutdown(socket.SHUT_WR)
            assert read_all(flow.client) == b"the last word"
        assert node.agent.wait(IO_SECONDS) == 0
    finally:
        node.start_agent()
        node.wait_ready()
    _until_served(breakable, Family.V4)


def _refused(shop: Shop) -> bool:
    try:
        shop.client.connect(shop.local.v4, PORT).close()
    except ConnectionRefusedError:
        return True
    return False


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
    """It changes to splice(2) in mid-stream. Other and later flows of the same workloads are relayed, over the end of
    the worker, until an operator gives them another try."""
    node = breakable.mesh.a
    _until_served(breakable, Family.V4)
    since = node.access_position()
    with connected(breakable, breakable.local, Family.V4, 2, seconds=IO_SECONDS) as (stuck, other):
        for flow in (stuck, other):
            flow.splice()
        _turn_to_splice(stuck)
        lines = eventually(lambda: node.access(since=since, reason="splice-stuck"))
        assert {(line["src.workload"], line["dst.workload"]) for line in lines} == {("client", "local")}
        assert other.short_cut() == 0, "live flows of the two go back to relay"
    _is_relayed(breakable)
    _kill_workers(breakable)
    _until_served(breakable, Family.V4)
    _is_relayed(breakable)
    kept = node.nodeagent("status", "-o", "json")["splice"]["kept_out"]["stuck"]
    assert sorted(uid.partition("@")[0] for uid in kept) == ["shop/client", "shop/local"]
    assert "workload shop/local: a flow of it got stuck (out splice)" in node.nodeagent("status")
    node.nodeagent("splice", "clear")
    eventually(lambda: not node.nodeagent("status", "-o", "json")["splice"]["kept_out"]["stuck"])
    with spliced(breakable):
        pass


def _turn_to_splice(flow: Pair) -> None:
    """The server reads redirected bytes with splice(2)."""
    reading, writing = os.pipe()
    try:
        flow.client.sendall(b"first")
        flow.server.setblocking(False)
        with pytest.raises((BlockingIOError, ConnectionResetError)):
            os.splice(flow.server.fileno(), writing, 5)
        assert_reset(flow.client)
    finally:
        os.close(reading)
        os.close(writing)


def _is_relayed(shop: Shop) -> None:
    """A new flow carries bytes, none of them the short way."""
    before = redirected(shop)
    data = os.urandom(1_000_000)
    with pair(shop) as later:
        for _ in range(5):
            later.exchange()
        assert transfer(later.client, later.server, data) == data
        (row,) = shop.mesh.a.nodeagent("flows", "-o", "json")["flows"]
        assert "got stuck" in row["relayed_because"]
    assert redirected(shop) == before
