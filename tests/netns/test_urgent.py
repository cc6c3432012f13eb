"""Urgent data (MSG_OOB) of applications: relayed, spliced, and across nodes the stream is what it is without a mesh."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import pytest

from nodeagent.net.marks import at_mark
from tests.netns.servers import read_all, read_exactly
from tests.netns.shop import Family, Shop
from tests.netns.spliced import pair, spliced
from tests.netns.test_legs import far, joined

ROUNDS = 50
REPORTED_WITHIN = 10_000
"""Milliseconds."""
WAYS = {"relayed": pair, "spliced": spliced, "across-nodes": far, "legs-joined": joined}
Ends = tuple[socket.socket, socket.socket]


@pytest.fixture(params=["relayed", pytest.param("spliced", marks=pytest.mark.splice), "across-nodes",
                        pytest.param("legs-joined", marks=pytest.mark.splice)])  # fmt: skip
def ends(request: pytest.FixtureRequest, shop: Shop, family: Family) -> Iterator[Ends]:
    """Of a connection that takes each way: client and server."""
    with WAYS[request.param](shop, family) as flow:  # type: ignore[operator]
        yield flow.client, flow.server


def reported(end: socket.socket) -> None:
    poll = select.poll()
    poll.register(end, select.POLLPRI)
    assert poll.poll(REPORTED_WITHIN), "no urgent byte was reported"


def test_a_server_that_reads_in_place_has_the_byte_where_it_was_sent(ends: Ends) -> None:
    for sender, receiver in (ends, ends[::-1]):
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        sender.sendall(b"abc")
        sender.send(b"\xff", socket.MSG_OOB)
        sender.sendall(b"def")
        assert read_exactly(receiver, 3) == b"abc"
        reported(receiver)
        assert at_mark(receiver)
        assert read_exactly(receiver, 4) == b"\xffdef"


def test_any_other_server_has_the_stream_without_it(ends: Ends) -> None:
    for sender, receiver in (ends, ends[::-1]):
        sender.sendall(b"abc")
        sender.send(b"\xff", socket.MSG_OOB)
        sender.sendall(b"def")
        assert read_exactly(receiver, 3) == b"abc"
        reported(receiver)
        assert receiver.recv(1, socket.MSG_OOB) == b"\xff"
        assert read_exactly(receiver, 3) == b"def"


def test_urgent_bytes_between_requests_leave_every_answer_right(ends: Ends) -> None:
    """As ``java.net.Socket.sendUrgentData(0xff)``, an idiom to see whether a server lives."""
    client, server = ends
    for number in range(ROUNDS):
        client.send(b"\xff", socket.MSG_OOB)
        client.sendall(b"%04d" % number)
        assert read_exactly(server, 4) == b"%04d" % number
        server.sendall(b"+%03d" % number)
        assert read_exactly(client, 4) == b"+%03d" % number
    client.send(b"\xff", socket.MSG_OOB)
    client.shutdown(socket.SHUT_WR)
    assert read_all(server) == b""
