"""A flow from end to end: bytes, half-closes, resets, and slow readers, on one node and between two."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import socket
from random import Random
from typing import Any
from unittest import mock

from nodeagent.flows.app import WRITE_HIGH_WATER, AppLeg
from nodeagent.flows.flow import Flow
from nodeagent.flows.reach import local
from nodeagent.flows.streams import StreamLeg
from nodeagent.http2.stream import Stream
from nodeagent.http2.windows import MAX_STREAM_WINDOW
from nodeagent.net import dialling
from nodeagent.reasons import Reason
from tests.support.stories import Stage, eventually, reset, story

MEGABYTES = 6 * 1024 * 1024


@story(both_paths=True)
async def test_bytes_arrive_intact_in_both_directions_at_once(mesh: Stage, vip: str) -> None:
    random = Random(7)
    up, down = random.randbytes(MEGABYTES), random.randbytes(MEGABYTES + 1)
    client, server = await mesh.pair(vip)

    async def send(end: socket.socket, data: bytes) -> None:
        at = 0
        while at < len(data):
            size = random.choice((1, 100, 4096, 65_536, 300_000))
            await mesh.send(end, data[at : at + size])
            at += size
        end.shutdown(socket.SHUT_WR)

    async with asyncio.TaskGroup() as group:
        group.create_task(send(client, up))
        group.create_task(send(server, down))
        at_server = group.create_task(mesh.read_to_end(server))
        at_client = group.create_task(mesh.read_to_end(client))
    assert at_server.result() == up
    assert at_client.result() == down
    for record in await mesh.records(mesh.a, 2 if vip == mesh.VIP_NEAR else 1):
        assert (record.reason, record.bytes_sent, record.bytes_received) == (Reason.OK, len(up), len(down))


@story(both_paths=True)
async def test_large_transfers_at_the_same_time_do_not_mix(mesh: Stage, vip: str) -> None:
    pairs = [await mesh.pair(vip) for _ in range(4)]
    sent = [Random(number).randbytes(MEGABYTES // 2) for number in range(2 * len(pairs))]
    async with asyncio.TaskGroup() as group:
        readers = []
        for number, (client, server) in enumerate(pairs):
            for source, target, data in ((client, server, sent[2 * number]), (server, client, sent[2 * number + 1])):
                group.create_task(mesh.send(source, data))
                readers.append(group.create_task(mesh.read(target, len(data))))
    for data, reader in zip(sent, readers, strict=True):
        assert reader.result() == data


@story(both_paths=True)
async def test_a_response_may_follow_the_clients_end(mesh: Stage, vip: str) -> None:
    client, server = await mesh.pair(vip)
    await mesh.send(client, b"question")
    client.shutdown(socket.SHUT_WR)
    assert await mesh.read_to_end(server) == b"question"
    answer = os.urandom(MEGABYTES)
    sending = asyncio.ensure_future(mesh.send(server, answer))
    assert await mesh.read(client, len(answer)) == answer
    await sending
    server.close()
    assert await mesh.read_to_end(client) == b""
    assert set(await mesh.reasons(mesh.a, 2 if vip == mesh.VIP_NEAR else 1)) == {Reason.OK}


@story(both_paths=True)
async def test_a_client_may_go_on_after_the_servers_end(mesh: Stage, vip: str) -> None:
    client, server = await mesh.pair(vip)
    await mesh.send(server, b"that is all")
    server.shutdown(socket.SHUT_WR)
    assert await mesh.read_to_end(client) == b"that is all"
    await mesh.send(client, b"not for me")
    assert await mesh.read(server, 10) == b"not for me"
    client.close()
    assert await mesh.read_to_end(server) == b""
    assert set(await mesh.reasons(mesh.a, 2 if vip == mesh.VIP_NEAR else 1)) == {Reason.OK}


@story(both_paths=True)
async def test_ends_that_come_before_the_legs_are_joined_are_passed_on(mesh: Stage, vip: str) -> None:
    """The client has ended, and so has the server, before the agent goes on from its connect."""

    async def dial(*arguments: Any, **options: Any) -> Any:
        leg = await dialling.dial_app(*arguments, **options)
        while not leg.ended:
            await asyncio.sleep(0)
        return leg

    with mock.patch.object(local, "dial_app", dial):
        client = mesh.connect(vip)
        client.shutdown(socket.SHUT_WR)
        server = await mesh.accept()
        server.close()
        assert await mesh.read_to_end(client) == b""
        assert set(await mesh.reasons(mesh.a, 2 if vip == mesh.VIP_NEAR else 1)) == {Reason.OK}


@story(both_paths=True)
async def test_a_server_may_speak_first(mesh: Stage, vip: str) -> None:
    client, server = await mesh.pair(vip)
    await mesh.send(server, b"220 hello")
    assert await mesh.read(client, 9) == b"220 hello"
    await mesh.echo(client, server)


@story(both_paths=True)
async def test_an_end_before_any_byte_is_an_end(mesh: Stage, vip: str) -> None:
    client = mesh.connect(vip)
    client.shutdown(socket.SHUT_WR)
    server = await mesh.accept()
    assert await mesh.read_to_end(server) == b""
    await mesh.send(server, b"still here")
    server.close()
    assert await mesh.read_to_end(client) == b"still here"


@story(both_paths=True)
async def test_bytes_and_end_sent_before_the_server_is_connected_arrive(mesh: Stage, vip: str) -> None:
    client = mesh.connect(vip)
    await mesh.send(client, b"early" * 1000)
    client.shutdown(socket.SHUT_WR)
    server = await mesh.accept()
    assert await mesh.read_to_end(server) == b"early" * 1000


@story(both_paths=True)
async def test_a_server_that_answers_and_closes_at_once_loses_nothing(mesh: Stage, vip: str) -> None:
    client = mesh.connect(vip)
    server = await mesh.accept()
    await mesh.send(server, b"gone" * 1000)
    server.close()
    assert await mesh.read_to_end(client) == b"gone" * 1000
    client.close()


@story(both_paths=True)
async def test_a_clients_reset_is_a_reset_at_the_server(mesh: Stage, vip: str) -> None:
    client, server = await mesh.pair(vip)
    await mesh.echo(client, server)
    reset(client)
    await mesh.expect_reset(server)
    assert set(await mesh.reasons(mesh.a, 2 if vip == mesh.VIP_NEAR else 1)) == {Reason.SOURCE_RESET}
    if vip == mesh.VIP_FAR:
        assert await mesh.reasons(mesh.b) == [Reason.SOURCE_RESET]


@story(both_paths=True)
async def test_a_servers_reset_is_a_reset_at_the_client(mesh: Stage, vip: str) -> None:
    client, server = await mesh.pair(vip)
    await mesh.echo(client, server)
    reset(server)
    await mesh.expect_reset(client)
    assert set(await mesh.reasons(mesh.a, 2 if vip == mesh.VIP_NEAR else 1)) == {Reason.DESTINATION_RESET}
    if vip == mesh.VIP_FAR:
        assert await mesh.reasons(mesh.b) == [Reason.DESTINATION_RESET]


@story(both_paths=True)
async def test_a_reset_after_a_half_close_is_still_a_reset(mesh: Stage, vip: str) -> None:
    client, server = await mesh.pair(vip)
    client.shutdown(socket.SHUT_WR)
    assert await mesh.read_to_end(server) == b""
    await mesh.send(server, b"half of the ans")
    assert await mesh.read(client, 15) == b"half of the ans"
    reset(server)
    await mesh.expect_reset(client)


@story(both_paths=True)
async def test_a_server_that_refuses_is_a_reset_at_the_client(mesh: Stage, vip: str) -> None:
    mesh.stop_listening()
    client = mesh.connect(vip)
    await mesh.expect_reset(client)
    node = mesh.a if vip == mesh.VIP_NEAR else mesh.b
    record = (await node.log.wait(1))[-1]
    assert record.reason is Reason.CONNECT_REFUSED
    assert str(mesh.far.ports[0]) in record.detail
    source = (await mesh.a.log.wait(1))[0]
    assert source.reason is Reason.CONNECT_REFUSED
    assert source.detail
    assert "refused" in record.detail


@story(both_paths=True)
async def test_a_reader_that_stops_stops_its_sender_and_no_one_else(mesh: Stage, vip: str) -> None:
    data = os.urandom(1 << 20) * 48
    client, server = await mesh.pair(vip)
    await mesh.echo(client, server)
    sent = 0

    async def send() -> None:
        nonlocal sent
        view = memoryview(data)
        while sent < len(data):
            try:
                sent += client.send(view[sent : sent + 65_536])
            except BlockingIOError:
                await asyncio.sleep(0.001)
        client.shutdown(socket.SHUT_WR)

    sending = asyncio.create_task(send())
    still, before = 0, -1
    while still < 50:  # until nothing moves any more
        still, before = (still + 1, sent) if sent == before else (0, sent)
        other, other_server = await mesh.pair(vip)
        await mesh.echo(other, other_server)
        await mesh.finish(other, other_server)
    assert not sending.done()
    assert sent < len(data)
    flow = next(iter(mesh.a.tracker.flows))
    if vip == mesh.VIP_NEAR:
        assert flow.destination.transport.get_write_buffer_size() <= 2 * WRITE_HIGH_WATER
    else:
        assert flow.destination.stream.queued <= 256 * 1024
        (remote,) = mesh.b.tracker.flows
        assert remote.destination.transport.get_write_buffer_size() <= MAX_STREAM_WINDOW + 2 * WRITE_HIGH_WATER
        assert len(mesh.a.outbound.pool) == 1
    received = await mesh.read_to_end(server)
    await sending
    assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()


@story(both_paths=True)
async def test_the_rest_for_a_slow_reader_outlives_both_ends(mesh: Stage, vip: str) -> None:
    """Both directions have ended, but the reader has not taken all: the flow lives until it has."""
    client, server = await mesh.pair(vip)
    client.shutdown(socket.SHUT_WR)
    assert await mesh.read_to_end(server) == b""
    sent = 0
    while len(mesh.a.tracker) and sent < 64 << 20:  # until a leg keeps something back
        try:
            sent += server.send(bytes(65_536))
        except BlockingIOError:
            if any(_unsent(flow) for node in (mesh.a, mesh.b) for flow in node.tracker.flows):
                break
            await asyncio.sleep(0.001)
    server.close()
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(mesh.a.tracker) == 1
    assert len(await mesh.read_to_end(client)) == sent
    assert set(await mesh.reasons(mesh.a, 2 if vip == mesh.VIP_NEAR else 1)) == {Reason.OK}


def _unsent(flow: object) -> bool:
    return flow.source.unsent or flow.destination.unsent  # type: ignore[attr-defined]


@story(both_paths=True)
async def test_a_client_that_resets_while_the_dial_is_answered_leaves_no_connection(mesh: Stage, vip: str) -> None:
    answered = asyncio.Event()

    async def slow(*arguments: Any, **options: Any) -> Any:
        leg = await dialling.dial_app(*arguments, **options)
        await asyncio.sleep(0)
        await answered.wait()
        return leg

    with mock.patch.object(local, "dial_app", slow):
        client, server = await mesh.pair(vip)
        reset(client)
        await (mesh.a if vip == mesh.VIP_NEAR else mesh.b).log.wait(1)
        answered.set()
        await mesh.expect_reset(server)


@story(both_paths=True)
async def test_nothing_of_a_flow_waits_for_the_search_for_circles(mesh: Stage, vip: str) -> None:
    """However it ends: the memory of a short connection is free at once."""
    for _ in range(2):  # the first time the modules and caches are made
        gc.collect()
        gc.disable()
        try:
            before = len(mesh.a.log.records)
            for end in (mesh.finish, _reset_by_client, _reset_by_server):
                client, server = await mesh.pair(vip)
                await mesh.echo(client, server)
                await end(client, server)
                await _until_over(mesh)
            assert len(mesh.a.log.records) > before
            left = [each for each in gc.get_objects() if isinstance(each, (Flow, AppLeg, StreamLeg, Stream))]
            assert left == []
        finally:
            gc.enable()


async def _reset_by_client(client: socket.socket, _server: socket.socket) -> None:
    reset(client)


async def _reset_by_server(_client: socket.socket, server: socket.socket) -> None:
    reset(server)


async def _until_over(mesh: Stage) -> None:
    def over() -> bool:
        nodes = (mesh.a, mesh.b)
        watched = any(len(node.services.poller._watched) > 2 or node.services.poller._doomed for node in nodes)
        return not watched and not any(len(node.tracker) for node in nodes)

    await eventually(over)
