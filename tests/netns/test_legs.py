"""Flows that leave the node, whose bytes go past TCP between each application and its agent: nobody notices."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.netns import resources
from tests.netns.conftest import MakeShop
from tests.netns.lab import Node, eventually
from tests.netns.servers import read_all, read_exactly, reset
from tests.netns.shop import TARGET_PORT, Family, Shop
from tests.netns.spliced import assert_reset, transfer
from tests.netns.spot import IO_SECONDS

pytestmark = pytest.mark.splice

BULK = 20_000_000
WORD = b"word"


class Far:
    """A connection to the other node, both ends."""

    def __init__(self, shop: Shop, client: socket.socket, server: socket.socket) -> None:
        self.nodes = (shop.mesh.a, shop.mesh.b)
        self.client = client
        self.server = server
        self.sent = 0

    def exchange(self, word: bytes = WORD) -> None:
        """The same bytes there and back."""
        for sender, receiver in ((self.client, self.server), (self.server, self.client)):
            sender.sendall(word)
            assert read_exactly(receiver, len(word)) == word
        self.sent += len(word)

    def past_tcp(self) -> list[float]:
        """How many bytes of an exchange did not take TCP, on each node."""
        before = [redirected(node) for node in self.nodes]
        self.exchange()
        return [redirected(node) - count for node, count in zip(self.nodes, before, strict=True)]

    def join(self) -> None:
        """Exchange until both legs are joined, both ways."""
        eventually(lambda: self.past_tcp() == [2 * len(WORD)] * 2, what="both legs are joined")


def redirected(node: Node) -> float:
    """Bytes that the programs of a node carried since its agent started."""
    return sum(
        sample.value
        for sample in node.metrics()
        if sample.name == "nodemesh_splice_total" and sample.labels["event"] == "bytes"
    )


@contextmanager
def far(shop: Shop, family: Family, *, seconds: float | None = IO_SECONDS) -> Iterator[Far]:
    """A new connection; ``seconds`` None: both ends block."""
    with ExitStack() as stack:
        with shop.server.spot.listen(TARGET_PORT) as listener:
            client = stack.enter_context(shop.dial(shop.server, family))
            server = stack.enter_context(listener.accept()[0])
        for end in (client, server):
            end.settimeout(seconds)
        yield Far(shop, client, server)


@contextmanager
def joined(shop: Shop, family: Family) -> Iterator[Far]:
    """... whose legs are joined on both nodes."""
    with far(shop, family) as flow:
        flow.join()
        yield flow


def test_bytes_arrive_intact_both_ways_and_are_counted_once(shop: Shop, family: Family) -> None:
    """Also where more is sent than is read, which TCP carries on."""
    since = [node.access_position() for node in (shop.mesh.a, shop.mesh.b)]
    up, down = os.urandom(BULK), os.urandom(BULK)
    got: list[bytes] = []
    with joined(shop, family) as flow:
        port = f":{flow.client.getsockname()[1]}"
        other = threading.Thread(target=lambda: got.append(transfer(flow.server, flow.client, down)), daemon=True)
        other.start()
        assert transfer(flow.client, flow.server, up) == up
        other.join(4 * IO_SECONDS)
        for _ in range(10):
            flow.exchange(b"x" * 10_000)
        carried = flow.sent + BULK
        flow.client.shutdown(socket.SHUT_WR)
        assert read_all(flow.server) == b""
    assert got == [down]
    for node, position in zip(flow.nodes, since, strict=True):
        line = eventually(
            lambda node=node, position=position: next(  # type: ignore[misc]
                (line for line in node.access(since=position) if line["src.addr"].endswith(port)), None
            )
        )
        assert (int(line["bytes_sent"]), int(line["bytes_recv"]), line["reason"]) == (carried, carried, "ok")


def test_each_end_comes_after_what_was_sent(shop: Shop, family: Family) -> None:
    with joined(shop, family) as flow:
        flow.client.sendall(b"x" * 300_000)
        flow.client.shutdown(socket.SHUT_WR)
        assert read_all(flow.server) == b"x" * 300_000
        assert transfer(flow.server, flow.client, b"y" * 300_000) == b"y" * 300_000
        flow.server.close()
        assert read_all(flow.client) == b""
    with joined(shop, family) as flow:
        flow.server.sendall(b"z" * 300_000)
        flow.server.close()
        assert read_all(flow.client) == b"z" * 300_000


def test_resets_go_through_either_way(shop: Shop, family: Family) -> None:
    with joined(shop, family) as flow:
        reset(flow.client)
        assert_reset(flow.server)
    with joined(shop, family) as flow:
        reset(flow.server)
        assert_reset(flow.client)


def test_a_reader_that_stops_holds_the_sender(shop: Shop, family: Family) -> None:
    piece = os.urandom(65536)
    with joined(shop, family) as flow:
        flow.client.settimeout(1)
        sent = 0
        try:
            while sent < 256 * 1024 * 1024:
                sent += flow.client.send(piece[sent % 65536 :])
        except TimeoutError:
            pass
        assert sent < 256 * 1024 * 1024, "nothing held the sender"
        assert read_exactly(flow.server, sent) == (piece * (sent // len(piece) + 1))[:sent]
        flow.exchange()


def test_blocking_programs_stay_with_tcp(shop: Shop, family: Family) -> None:
    with far(shop, family, seconds=None) as flow:
        for _ in range(10):
            assert flow.past_tcp() == [0, 0]


def test_the_switch_keeps_everything_with_tcp_and_breaks_nothing(shop: Shop) -> None:
    with joined(shop, Family.V4) as flow:
        with shop.mesh.applied(resources.mesh_config(splice=False)):
            eventually(lambda: flow.past_tcp() == [0, 0], what="both legs are back with TCP")
            eventually(lambda: _switched_off(shop), what="no new leg is joined")
        flow.join()


def _switched_off(shop: Shop) -> bool:
    with far(shop, Family.V4) as flow:
        for _ in range(5):
            flow.exchange()
        return flow.past_tcp() == [0, 0]


def test_a_killed_agent_is_a_reset_for_both_ends(make_shop: MakeShop, family: Family) -> None:
    shop = make_shop()
    node = shop.mesh.a
    with joined(shop, family) as flow:
        flow.server.sendall(b"u" * 100_000)
        node.stop_agent(signal.SIGKILL)
        try:
            assert_reset(flow.server)
            assert_reset(flow.client)
        finally:
            node.start_agent()
            node.wait_ready()
