"""Stories of two nodes over real sockets: what an application at either end does and sees.

    @story
    async def test_something(mesh: Stage) -> None: ...          # over IPv4 and IPv6

    @story(both_paths=True)
    async def test_something(mesh: Stage, vip: str) -> None: ...  # and same-node and cross-node

When a story is over its sockets are closed, and then everything must be gone: flows, counts, tasks, descriptors; and
nothing may have been logged as a defect or left to the loop's exception handler.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Callable, Coroutine
from functools import cache
from typing import Any

import pytest
import uvloop

from nodeagent.reasons import Reason
from nodeagent.telemetry.flow import FlowRecord
from tests.support.pace import patient
from tests.support.relay import LOOPBACK, Mesh, Node

PATIENCE_SECONDS = patient(30)
PATHS = {"same-node": Mesh.VIP_NEAR, "cross-node": Mesh.VIP_FAR}
Story = Callable[..., Coroutine[Any, Any, None]]


class Stage(Mesh):
    """A mesh with a server that the test plays itself, socket by socket."""

    def __init__(self, ip: str) -> None:
        super().__init__(ip)
        self.loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        self.listener = socket.create_server((ip, 0), family=family)
        self.listener.setblocking(False)
        self.sockets = [self.listener]

    @property
    def server_port(self) -> int:
        return self.listener.getsockname()[1]

    def stop_listening(self) -> None:
        """From now on the server's port refuses."""
        self.listener.close()

    def connect(self, vip: str, port: int = 80) -> socket.socket:
        client = super().connect(vip, port)
        self.sockets.append(client)
        return client

    async def accept(self) -> socket.socket:
        """The server's end of the next connection."""
        server, _ = await self.loop.sock_accept(self.listener)
        server.setblocking(False)
        self.sockets.append(server)
        return server

    async def pair(self, vip: str) -> tuple[socket.socket, socket.socket]:
        """A connection: its client's end and its server's end."""
        client = self.connect(vip)
        return client, await self.accept()

    async def send(self, end: socket.socket, data: bytes) -> None:
        await self.loop.sock_sendall(end, data)

    async def read(self, end: socket.socket, size: int) -> bytes:
        """Exactly so many bytes."""
        data = bytearray()
        while len(data) < size:
            piece = await self.loop.sock_recv(end, min(size - len(data), 1 << 18))
            assert piece, f"the end of the stream after {len(data)} of {size} bytes"
            data += piece
        return bytes(data)

    async def read_to_end(self, end: socket.socket) -> bytes:
        """Everything up to the FIN."""
        data = bytearray()
        while piece := await self.loop.sock_recv(end, 1 << 18):
            data += piece
        return bytes(data)

    async def expect_reset(self, end: socket.socket) -> None:
        """The connection was reset, and did not end."""
        with pytest.raises(ConnectionResetError):
            while await self.loop.sock_recv(end, 1 << 18):
                pass
            pytest.fail("the stream ended in order")

    async def echo(self, client: socket.socket, server: socket.socket, word: bytes = b"ping") -> None:
        """A round trip, to show that the connection is alive."""
        await self.send(client, word)
        assert await self.read(server, len(word)) == word
        await self.send(server, word[::-1])
        assert await self.read(client, len(word)) == word[::-1]

    async def finish(self, client: socket.socket, server: socket.socket) -> None:
        """End a connection in order."""
        client.shutdown(socket.SHUT_WR)
        assert await self.read_to_end(server) == b""
        server.shutdown(socket.SHUT_WR)
        assert await self.read_to_end(client) == b""

    async def records(self, node: Node, count: int = 1) -> list[FlowRecord]:
        """The records of a node once there are so many; no more than that."""
        records = list(await node.log.wait(count))
        assert len(records) == count, records
        return records

    async def reasons(self, node: Node, count: int = 1) -> list[Reason]:
        return [record.reason for record in await self.records(node, count)]

    async def close(self) -> None:
        """Close what the story left open; then every flow must end by itself."""
        for end in self.sockets:
            end.close()
        for node in (self.a, self.b):
            await eventually(lambda node=node: not len(node.tracker), "flows are left")
        await self.stop()


def reset(end: socket.socket) -> None:
    """Close with a RST."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()


async def eventually(condition: Callable[[], object], complaint: str = "it did not happen") -> None:
    """Wait until the condition holds: for what happens in another process, or without an event to wait for."""
    try:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.001)
    except TimeoutError:
        pytest.fail(complaint)


def descriptors() -> dict[str, str]:
    """Open file descriptors of this process, and what they are."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found[name] = os.readlink(f"/proc/self/fd/{name}")
    return found


def story(function: Story | None = None, *, both_paths: bool = False, **far: Any) -> Any:
    """Make a story a test. ``far`` are fields of the workload ``far``."""
    if function is None:
        return lambda function: story(function, both_paths=both_paths, **far)

    if both_paths:

        @pytest.mark.parametrize("vip", PATHS.values(), ids=PATHS)
        @pytest.mark.parametrize("ip", LOOPBACK.values(), ids=LOOPBACK)
        def test(ip: str, vip: str, caplog: pytest.LogCaptureFixture) -> None:
            _run(ip, caplog, lambda stage: function(stage, vip), far)

    else:

        @pytest.mark.parametrize("ip", LOOPBACK.values(), ids=LOOPBACK)
        def test(ip: str, caplog: pytest.LogCaptureFixture) -> None:
            _run(ip, caplog, function, far)

    test.__name__, test.__doc__, test.__module__ = function.__name__, function.__doc__, function.__module__
    return test


def _run(ip: str, caplog: pytest.LogCaptureFixture, tell: Story, far: dict[str, Any]) -> None:
    _first_loop()
    before, complaints = descriptors(), []
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: complaints.append(context))
        runner.run(_tell(ip, tell, far))
    assert not complaints
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []
    assert descriptors() == before, "descriptors are left open"


@cache
def _first_loop() -> None:
    """libuv opens a pipe of its own for the first loop of a process, and keeps it."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.sleep(0))


async def _tell(ip: str, tell: Story, far: dict[str, Any]) -> None:
    stage = Stage(ip)
    try:
        await stage.start(stage.server_port, **far)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await tell(stage)
        await stage.close()
    finally:
        for end in stage.sockets:
            end.close()
        await stage.stop()
    _check_counts(stage)


def _check_counts(stage: Stage) -> None:
    for node in (stage.a, stage.b):
        assert not node.tracker._by_workload
        assert not node.outbound.reach.balancer._live
        assert not node.metrics._live
        assert all(series.live == 0 for series in node.metrics._series.values())
        assert not node.outbound.pool._entries
        assert not node.outbound.pool._waiting
        assert len(node.outbound.pool) == 0
        assert node.services.budget.left == type(node.services.budget)().left
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not left
