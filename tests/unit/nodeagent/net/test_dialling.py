"""Connecting to applications: at once where that is possible, within a bound where it is not."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable
from unittest import mock

import pytest

from control.wire.address import SocketAddress
from nodeagent.net.dialling import connect_reason, dial_app, local_reason
from nodeagent.net.sockets import UNPACED
from nodeagent.net.tasks import Tasks
from nodeagent.reasons import Reason
from tests.support.polled import Bench, Recorder, congestion, polled


def crowded(bench: Bench) -> tuple[socket.socket, SocketAddress]:
    """A server whose queue is full: the kernel answers nobody else until somebody is accepted."""
    listener, address = bench.server(backlog=0)
    bench.client(address)
    return listener, address


@polled
async def test_on_one_host_it_is_done_before_it_waits(bench: Bench) -> None:
    listener, address = bench.server()
    protocol = Recorder()
    with pytest.raises(StopIteration) as done:
        dial_app(bench.poller, lambda: protocol, address).send(None)
    assert done.value.value is protocol and protocol.told == ["made"]
    server, _ = listener.accept()
    with server:
        server.send(b"hello")
        await protocol.until(lambda: protocol.data == b"hello")
        dialled = protocol.transport.get_extra_info("socket")
        assert dialled.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == struct.pack("ii", 1, 0)
        assert dialled.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        protocol.transport.abort()
        await protocol.lost.wait()
        with pytest.raises(ConnectionResetError):
            server.recv(1)


@polled
async def test_what_stays_on_the_node_is_not_paced(bench: Bench) -> None:
    _, address = bench.server()
    for outward, expected in ((None, UNPACED), (10.0, congestion(bench.server()[0]))):
        protocol = await dial_app(bench.poller, Recorder, address, outward=outward)
        assert congestion(protocol.transport.get_extra_info("socket")) == expected
        protocol.transport.abort()


@polled
async def test_the_descriptor_is_told_before_the_connection_is_begun(bench: Bench) -> None:
    _, address = bench.server()
    seen = []

    def before(descriptor: int) -> None:
        with socket.socket(fileno=socket.dup(descriptor)) as same, pytest.raises(OSError, match="not connected"):
            same.getpeername()
        seen.append(descriptor)

    protocol = await dial_app(bench.poller, Recorder, address, before)
    assert seen == [protocol.transport.get_extra_info("socket").fileno()]
    protocol.transport.abort()


@polled
async def test_a_port_that_refuses(bench: Bench) -> None:
    listener, address = bench.server()
    listener.close()
    with pytest.raises(ConnectionRefusedError) as refused:
        await dial_app(bench.poller, Recorder, address)
    assert connect_reason(refused.value) is Reason.CONNECT_REFUSED


@polled
async def test_a_server_that_takes_its_time(bench: Bench) -> None:
    listener, address = crowded(bench)
    dialling_it = asyncio.ensure_future(dial_app(bench.poller, Recorder, address))
    await bench.turns(3)
    assert bench.poller._watched and not dialling_it.done()
    first, _ = listener.accept()  # the kernel asks again after a second
    protocol = await dialling_it
    server, _ = await bench.loop.sock_accept(listener)
    with first, server:
        server.send(b"hello")
        await protocol.until(lambda: protocol.data == b"hello")
        protocol.transport.abort()
        await protocol.lost.wait()


@polled
async def test_a_server_that_does_not_answer(bench: Bench) -> None:
    _, address = crowded(bench)
    with pytest.raises(TimeoutError) as late:
        await dial_app(bench.poller, Recorder, address, outward=0.01)
    assert connect_reason(late.value) is Reason.CONNECT_TIMEOUT
    assert not bench.poller._watched


@polled
async def test_a_dial_that_nobody_waits_for_any_more(bench: Bench) -> None:
    """Within the node there is no time-out: the client's patience decides."""
    _, address = crowded(bench)
    give_up: list[Callable[[], None]] = []
    dial = asyncio.ensure_future(dial_app(bench.poller, Recorder, address, waits=give_up.append))
    await bench.turns(3)
    assert not dial.done()
    give_up[0]()
    with pytest.raises(ConnectionAbortedError):
        await dial
    assert not bench.poller._watched
    assert local_reason(TimeoutError()) is Reason.SERVER_BUSY
    assert local_reason(ConnectionRefusedError(errno.ECONNREFUSED, "")) is Reason.CONNECT_REFUSED


@polled
async def test_a_dial_that_is_given_up(bench: Bench) -> None:
    _, address = crowded(bench)
    tasks = Tasks(bench.loop)
    ended: list[str] = []

    async def work() -> None:
        try:
            await dial_app(bench.poller, Recorder, address)
        finally:
            ended.append("dial")

    tasks.start(work(), "dial")
    await bench.turns(3)
    assert len(tasks) == 1 and bench.poller._watched
    tasks.cancel()
    while len(tasks):
        await bench.turns(1)
    assert ended == ["dial"] and not bench.poller._watched


@polled
async def test_nothing_is_left_of_a_dial_whose_protocol_cannot_be_made(bench: Bench) -> None:
    _, address = bench.server()
    for options in ({"before": mock.Mock(side_effect=ZeroDivisionError)}, {"spliced": True}):
        factory = mock.Mock(side_effect=ZeroDivisionError)
        with pytest.raises(ZeroDivisionError):
            await dial_app(bench.poller, factory, address, **options)


def test_reasons() -> None:
    def reason(number: int) -> Reason:
        return connect_reason(OSError(number, "text"))

    assert reason(errno.ENETUNREACH) is reason(errno.EHOSTUNREACH) is Reason.CONNECT_UNREACHABLE
    assert reason(errno.ETIMEDOUT) is connect_reason(TimeoutError()) is Reason.CONNECT_TIMEOUT
    assert reason(errno.EACCES) is connect_reason(ValueError()) is Reason.CONNECT_FAILED
