"""Urgent data (MSG_OOB) between applications: what a direct TCP connection shows, on one node and across nodes."""

from __future__ import annotations

import asyncio
import random
import select
import socket

import pytest

from nodeagent.flows import urgent
from nodeagent.net.marks import at_mark
from nodeagent.reasons import Reason
from tests.support.stories import Stage, eventually, story


def in_place(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


async def alarmed(end: socket.socket) -> None:
    """Wait for an urgent byte to be reported."""
    poll = select.poll()
    poll.register(end, select.POLLPRI)
    await eventually(lambda: poll.poll(0), "no urgent byte was reported")


async def ways(stage: Stage, vip: str) -> list[tuple[socket.socket, socket.socket]]:
    """A connection that both ends have used: who sends and who receives, both ways."""
    client, server = await stage.pair(vip)
    await stage.echo(client, server)
    return [(client, server), (server, client)]


@story(both_paths=True)
async def test_a_receiver_in_place_reads_the_byte_at_its_mark(mesh: Stage, vip: str) -> None:
    for sender, receiver in await ways(mesh, vip):
        in_place(receiver)
        await mesh.send(sender, b"abc")
        sender.send(b"\xff", socket.MSG_OOB)
        await mesh.send(sender, b"def")
        await alarmed(receiver)
        assert await mesh.read(receiver, 3) == b"abc"
        assert at_mark(receiver)
        assert await mesh.read(receiver, 1) == b"\xff"
        assert await mesh.read(receiver, 3) == b"def"


@story(both_paths=True)
async def test_a_receiver_out_of_band_never_has_it_in_the_stream(mesh: Stage, vip: str) -> None:
    for sender, receiver in await ways(mesh, vip):
        await mesh.send(sender, b"abc")
        sender.send(b"xy", socket.MSG_OOB)  # the last byte is the urgent one
        await mesh.send(sender, b"def")
        await alarmed(receiver)
        assert await mesh.read(receiver, 4) == b"abcx"
        assert receiver.recv(1, socket.MSG_OOB) == b"y"
        assert await mesh.read(receiver, 3) == b"def"


@story(both_paths=True)
async def test_urgent_bytes_between_requests_leave_every_answer_right(mesh: Stage, vip: str) -> None:
    """As java.net.Socket.sendUrgentData(0xFF), an idiom to see whether the server lives."""
    client, server = await mesh.pair(vip)
    for number in range(100):
        word = b"%04d" % number
        await mesh.echo(client, server, word)
        client.send(b"\xff", socket.MSG_OOB)
    await mesh.echo(client, server, b"done")
    await mesh.finish(client, server)
    assert Reason.OK in await mesh.reasons(mesh.a, 2 if vip == Stage.VIP_NEAR else 1)


@story(both_paths=True)
async def test_urgent_bytes_within_a_bulk_transfer_keep_their_places(mesh: Stage, vip: str) -> None:
    """The writer blocks again and again, so bytes and marks wait in the agent and in the tunnel."""
    dice = random.Random(7)
    client, server = await mesh.pair(vip)
    in_place(server)
    pieces = [bytes([65 + n % 20]) * dice.randrange(1, 300_000) for n in range(40)]
    places: list[int] = []

    async def send() -> None:
        sent = 0
        for piece in pieces:
            await mesh.send(client, piece)
            sent += len(piece)
            while True:
                try:
                    client.send(b"!", socket.MSG_OOB)
                    break
                except BlockingIOError:
                    await asyncio.sleep(0)
            places.append(sent)
            sent += 1
            await eventually(lambda: len(found) == len(places), "the mark came")
        client.shutdown(socket.SHUT_WR)

    found: list[int] = []
    sending = asyncio.create_task(send())
    data = bytearray()
    while True:
        if at_mark(server):
            found.append(len(data))
            data += await mesh.read(server, 1)
            continue
        piece = await mesh.loop.sock_recv(server, 1 << 16)
        if not piece:
            break
        data += piece
    await sending
    assert data == b"!".join(pieces) + b"!"
    assert found == places


@story(both_paths=True)
async def test_an_urgent_byte_first_of_all(mesh: Stage, vip: str) -> None:
    """Before the server was reached, and with nothing else in the stream."""
    client = mesh.connect(vip)
    client.send(b"!", socket.MSG_OOB)
    server = await mesh.accept()
    await alarmed(server)
    assert server.recv(1, socket.MSG_OOB) == b"!"
    await mesh.send(client, b"word")
    assert await mesh.read(server, 4) == b"word"
    await mesh.finish(client, server)


@story(both_paths=True)
async def test_an_urgent_byte_last_of_all(mesh: Stage, vip: str) -> None:
    client, server = await mesh.pair(vip)
    in_place(server)
    await mesh.send(client, b"abc")
    client.send(b"!", socket.MSG_OOB)
    client.shutdown(socket.SHUT_WR)
    assert await mesh.read_to_end(server) in (b"abc!", b"abc")  # a read ends before the mark
    server.shutdown(socket.SHUT_WR)
    assert await mesh.read_to_end(client) == b""


@story
async def test_a_peer_that_knows_no_urgent_data_has_the_flow_reset(mesh: Stage) -> None:
    """An older agent, or ztunnel: without the byte a server in place would read another stream."""
    client, server = await mesh.pair(mesh.VIP_FAR)
    await mesh.echo(client, server)
    for tunnel in mesh.a.outbound.reach.remote.pool:
        assert tunnel.connection.output.takes_urgent is True
        tunnel.connection.output.takes_urgent = False
    client.send(b"!", socket.MSG_OOB)
    await mesh.expect_reset(client)
    await mesh.expect_reset(server)
    assert await mesh.reasons(mesh.a) == [Reason.URGENT_DATA]
    assert await mesh.reasons(mesh.b) == [Reason.URGENT_DATA]


@story
async def test_an_urgent_byte_waits_for_the_peers_settings(mesh: Stage) -> None:
    client, server = await mesh.pair(mesh.VIP_FAR)
    await mesh.echo(client, server)
    outputs = [tunnel.connection.output for tunnel in mesh.a.outbound.reach.remote.pool]
    for output in outputs:
        output.takes_urgent = None
    await mesh.send(client, b"abc")
    client.send(b"!", socket.MSG_OOB)
    await mesh.send(client, b"def")
    assert await mesh.read(server, 3) == b"abc"
    for output in outputs:
        output.takes_urgent = True
    await alarmed(server)
    assert server.recv(1, socket.MSG_OOB) == b"!"
    assert await mesh.read(server, 3) == b"def"


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urgent, "WAIT_SECONDS", 0.05)


@pytest.mark.usefixtures("hurried")
@story
async def test_what_cannot_be_passed_on_in_time_is_reset(mesh: Stage) -> None:
    client, server = await mesh.pair(mesh.VIP_NEAR)
    await mesh.echo(client, server)
    (flow,) = mesh.a.tracker.flows
    assert flow.destination is not None
    flow.destination.unread = lambda: urgent.PastTcp(1, 0)  # type: ignore[attr-defined]
    client.send(b"!", socket.MSG_OOB)
    await mesh.expect_reset(client)
    await mesh.expect_reset(server)
    assert set(await mesh.reasons(mesh.a, 2)) == {Reason.URGENT_DATA}


@story(both_paths=True)
async def test_an_urgent_byte_is_not_passed_before_what_the_kernel_carries(mesh: Stage, vip: str) -> None:
    """Its receiver would read that as urgent. What follows waits behind it, the end of the stream too."""
    client, server = await mesh.pair(vip)
    await mesh.echo(client, server)
    node = mesh.a if vip == mesh.VIP_NEAR else mesh.b
    (flow,) = node.tracker.flows
    leg, left = flow.destination, [1]
    assert leg is not None
    leg.unread = lambda: urgent.PastTcp(left[0], 0)  # type: ignore[attr-defined]
    in_place(server)
    await mesh.send(client, b"abc")
    client.send(b"!", socket.MSG_OOB)
    await mesh.send(client, b"def")
    client.shutdown(socket.SHUT_WR)
    server.shutdown(socket.SHUT_WR)
    assert await mesh.read(server, 3) == b"abc"
    left[0] = 0
    await alarmed(server)
    assert await mesh.read(server, 1) == b"!"
    assert await mesh.read_to_end(server) == b"def"
