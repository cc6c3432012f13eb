"""A ``Poller`` on a loop of its own, and connections on it whose other end the test plays.

    @polled
    async def test_something(bench: Bench) -> None: ...   # over IPv4, IPv6, and IPv4 seen by an IPv6 socket

Nothing may be left open, unhandled, or logged as a defect that the test did not ask for (``bench.said``).
"""

from __future__ import annotations

import asyncio
import logging
import socket
from asyncio import BaseProtocol, BufferedProtocol, Protocol
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from control.wire.address import SocketAddress
from nodeagent.net.poller import Poller
from nodeagent.net.sockets import for_application
from nodeagent.net.transport import SocketTransport
from tests.support.stories import _first_loop, descriptors

PATIENCE_SECONDS = 30
WAYS = {"v4": ("127.0.0.1", "127.0.0.1"), "v6": ("::1", "::1"), "v4-mapped": ("::", "127.0.0.1")}
"""Where a server listens, and where its client connects to."""


class Recorder(Protocol):
    """Writes down what its transport tells."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.data = bytearray()
        self.told: list[str] = []
        self.error: Exception | None = None
        self.lost = asyncio.Event()
        self.news = asyncio.Event()
        self.keeps_open = True
        self.on_data: Callable[[], object] = lambda: None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._note("made")

    def data_received(self, data: bytes) -> None:
        self.data += data
        self._note("data")
        self.on_data()

    def eof_received(self) -> bool:
        self._note("eof")
        return self.keeps_open

    def pause_writing(self) -> None:
        self._note("pause")

    def resume_writing(self) -> None:
        self._note("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        self._note("lost")
        self.lost.set()

    def _note(self, what: str) -> None:
        if what != "data" or self.told[-1:] != ["data"]:
            self.told.append(what)
        self.news.set()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for news until it holds."""
        while not condition():
            await self.news.wait()
            self.news.clear()


class BufferedRecorder(Recorder, BufferedProtocol):
    """As Recorder, reading into a buffer of its own."""

    def __init__(self, size: int = 4096) -> None:
        super().__init__()
        self.buffer = memoryview(bytearray(size))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self.buffer[:nbytes]))


class Bench:
    """One test's poller and sockets."""

    def __init__(self, listens: str, connects: str, caplog: pytest.LogCaptureFixture) -> None:
        self.loop = asyncio.get_running_loop()
        self.poller = Poller(self.loop)
        self.listens, self.connects = listens, connects
        self.sockets: list[socket.socket] = []
        self._caplog = caplog

    def server(self, backlog: int = 128) -> tuple[socket.socket, SocketAddress]:
        """A listening socket, and where to connect to."""
        family = socket.AF_INET6 if ":" in self.listens else socket.AF_INET
        listener = socket.create_server(
            (self.listens, 0), family=family, backlog=backlog, dualstack_ipv6=self.listens == "::"
        )
        listener.setblocking(False)
        self.sockets.append(listener)
        return listener, SocketAddress(self.connects, listener.getsockname()[1])

    def client(self, address: SocketAddress) -> socket.socket:
        """A connected, non-blocking client."""
        made = socket.create_connection(tuple(address))
        made.setblocking(False)
        self.sockets.append(made)
        return made

    def pair(self, protocol: BaseProtocol) -> tuple[SocketTransport, socket.socket]:
        """A transport for the protocol, started, and the other end of its connection."""
        listener, address = self.server()
        other = self.client(address)
        ours, peername = listener.accept()
        ours.setblocking(False)
        for_application(ours)
        transport = SocketTransport(self.poller, ours, protocol, peername)
        transport.start()
        return transport, other

    async def read_to_end(self, end: socket.socket) -> bytes:
        """Everything up to the FIN."""
        data = bytearray()
        while piece := await self.loop.sock_recv(end, 1 << 18):
            data += piece
        return bytes(data)

    async def turns(self, count: int) -> None:
        """Let the loop go round so often."""
        for _ in range(count):
            await asyncio.sleep(0)

    def said(self, level: int = logging.WARNING) -> list[str]:
        """What was logged, from this level on; the test takes it upon itself."""
        said = [record.getMessage() for record in self._caplog.records if record.levelno >= level]
        self._caplog.clear()
        return said

    def close(self) -> None:
        for end in self.sockets:
            end.close()
        self.poller.close()


def congestion(handle: socket.socket) -> bytes:
    """The name of its congestion control."""
    return handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")


def polled(function: Callable[[Bench], Coroutine[Any, Any, None]]) -> Any:
    """Make it a test."""

    @pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
    def test(way: tuple[str, str], caplog: pytest.LogCaptureFixture) -> None:
        _first_loop()
        before, complaints = descriptors(), []
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: complaints.append(context))
            runner.run(_run(function, way, caplog))
        assert not complaints
        assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []
        assert descriptors() == before, "descriptors are left open"

    test.__name__, test.__doc__, test.__module__ = function.__name__, function.__doc__, function.__module__
    return test


async def _run(
    function: Callable[[Bench], Coroutine[Any, Any, None]], way: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(*way, caplog)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await function(bench)
            while bench.poller._watched or bench.poller._doomed:  # every connection ends by itself
                await bench.turns(1)
    finally:
        bench.close()
