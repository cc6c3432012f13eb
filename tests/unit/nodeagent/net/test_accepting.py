"""Listening for applications: what an accepted connection is like, and what cannot stop the listener."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import struct
from typing import Any
from unittest import mock

import pytest

from control.wire.address import SocketAddress
from nodeagent.net import accepting
from nodeagent.net.accepting import ACCEPTED_AT_ONCE, AppListener, ListenError, listen_for_apps, listen_for_tunnels
from nodeagent.net.sockets import UNPACED
from tests.support.polled import Bench, Recorder, congestion, polled
from tests.support.stories import eventually


class Hall:
    """A listener, and the protocols of those who came."""

    def __init__(self, bench: Bench, *, near: bool = True) -> None:
        self.bench = bench
        self.guests: list[Recorder] = []
        address = SocketAddress(bench.listens, 0)
        self.listener: AppListener = listen_for_apps(bench.poller, self.guest, address, near=near)
        self.address = SocketAddress(bench.connects, self.listener.sockets[0].getsockname()[1])

    def guest(self) -> Recorder:
        self.guests.append(Recorder())
        return self.guests[-1]

    def connect(self) -> socket.socket:
        return self.bench.client(self.address)

    async def wait(self, count: int) -> None:
        await eventually(lambda: len(self.guests) >= count)

    def close(self) -> None:
        self.listener.close()
        for guest in self.guests:
            if guest.transport is not None:
                guest.transport.abort()


@polled
async def test_only_what_comes_from_the_node_is_not_paced(bench: Bench) -> None:
    for near, expected in ((True, UNPACED), (False, congestion(bench.server()[0]))):
        hall = Hall(bench, near=near)
        with hall.connect():
            await hall.wait(1)
            assert congestion(hall.guests[0].transport.get_extra_info("socket")) == expected
        hall.close()


@polled
async def test_an_accepted_connection_is_reset_unless_it_ends_in_order(bench: Bench) -> None:
    hall = Hall(bench)
    client = hall.connect()
    await hall.wait(1)
    accepted: socket.socket = hall.guests[0].transport.get_extra_info("socket")
    assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == struct.pack("ii", 1, 0)
    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    assert not accepted.getblocking() and not accepted.get_inheritable()
    assert hall.guests[0].transport.get_extra_info("peername")[1] == client.getsockname()[1]
    client.send(b"hello")
    await hall.guests[0].until(lambda: hall.guests[0].data == b"hello")
    hall.close()
    await hall.guests[0].lost.wait()
    with pytest.raises(ConnectionResetError):
        await bench.read_to_end(client)


@polled
async def test_others_have_their_turn_between_many_that_come_at_once(bench: Bench) -> None:
    hall = Hall(bench)
    clients = [hall.connect() for _ in range(ACCEPTED_AT_ONCE + 10)]
    hall.listener.ready(0)
    assert len(hall.guests) == ACCEPTED_AT_ONCE
    await hall.wait(len(clients))
    hall.close()


@polled
async def test_too_few_descriptors_are_a_pause_and_no_end(bench: Bench) -> None:
    hall = Hall(bench)
    client = hall.connect()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    with mock.patch.object(accepting, "ACCEPT_PAUSE_SECONDS", 0.01):
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
        try:
            for _ in range(2):  # and again, while it lasts
                hall.listener.ready(0)
                assert hall.listener._descriptor not in bench.poller._watched, "it would be told again and again"
                await eventually(lambda: hall.listener._descriptor in bench.poller._watched)
                hall.listener._poller.remove(hall.listener._descriptor)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        said = bench.said()
        assert len(said) >= 2 and "Too many open files" in said[0] and "raise the limit" in said[0]
        hall.listener._go_on()
        client.send(b"still here")
        await hall.wait(1)
        await hall.guests[0].until(lambda: hall.guests[0].data == b"still here")
        hall.close()


@pytest.mark.interpreted
@polled
async def test_a_listener_that_cannot_be_watched_tries_again(bench: Bench) -> None:
    hall = Hall(bench)
    bench.poller.remove(hall.listener._descriptor)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with mock.patch.object(accepting, "ACCEPT_PAUSE_SECONDS", 0.01):
        with mock.patch.object(bench.poller, "add", side_effect=full):
            hall.listener._go_on()
        await eventually(lambda: hall.listener._descriptor in bench.poller._watched)
    assert len(bench.said()) == 1
    hall.connect()
    await hall.wait(1)
    hall.close()


@polled
async def test_what_is_wrong_with_one_connection_does_not_hold_up_the_next(bench: Bench) -> None:
    hall = Hall(bench)
    took, wrong = hall.listener._take, [errno.ECONNABORTED, errno.EPERM, errno.EHOSTUNREACH]

    def take() -> object:
        if wrong:
            raise OSError(wrong.pop(), "of this connection")
        return took()

    hall.connect()
    with mock.patch.object(hall.listener, "_take", take):
        hall.listener.ready(0)
    assert not wrong and len(hall.guests) == 1
    hall.close()


@polled
async def test_a_defect_while_accepting_refuses_one_connection(bench: Bench) -> None:
    hall = Hall(bench)
    with mock.patch.object(hall.listener, "_factory", side_effect=ZeroDivisionError):
        refused = hall.connect()
        with pytest.raises(ConnectionResetError):
            await bench.read_to_end(refused)
    assert bench.said() == ["defect while handling an application's socket"]
    hall.connect()
    await hall.wait(1)
    hall.close()


@polled
async def test_a_listener_may_be_closed_by_what_a_connection_leads_to(bench: Bench) -> None:
    hall = Hall(bench)
    guest = hall.guest

    def last() -> Recorder:
        hall.listener.close()
        return guest()

    clients = [hall.connect(), hall.connect()]
    with mock.patch.object(hall.listener, "_factory", last):
        await hall.wait(1)
    await bench.turns(3)
    assert len(hall.guests) == 1
    hall.listener.close()
    hall.close()
    for client in clients:
        with pytest.raises(ConnectionResetError):
            await bench.read_to_end(client)


@polled
async def test_a_port_that_is_taken_is_named(bench: Bench) -> None:
    _, address = bench.server()
    taken = SocketAddress(bench.listens, address.port)
    with pytest.raises(ListenError, match=f"{address.port}.*held by .*listening.*free the port"):
        listen_for_apps(bench.poller, Recorder, taken)
    with pytest.raises(ListenError, match="held by"):
        nobody: Any = None
        listen_for_tunnels(bench.poller, nobody, nobody, taken)


@polled
async def test_workers_share_a_port(bench: Bench) -> None:
    first = Hall(bench)
    second = listen_for_apps(bench.poller, first.guest, SocketAddress(bench.listens, first.address.port))
    accepting.spread(second, 2)
    for _ in range(20):
        first.connect()
    await first.wait(20)
    second.close()
    first.close()
    await asyncio.sleep(0)
