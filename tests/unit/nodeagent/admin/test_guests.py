"""The admin ports under idle, slow and many connections: whoever comes is answered."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from nodeagent.admin import guests as module
from nodeagent.admin.apps import debug_app, metrics_app, ready_app
from nodeagent.admin.server import LOOPBACK, AdminServer, bind
from nodeagent.lifecycle import Lifecycle, Phase
from nodeagent.limits.excess import Excess
from nodeagent.limits.settings import Limits
from tests.support.stories import eventually
from tests.unit.nodeagent.admin.test_apps import free_port

HEAD = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n"
Opened = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class House:
    """The three ports of an agent."""

    def __init__(self, **limits: int) -> None:
        self.excess = Excess(Limits(**limits))
        self.server = AdminServer(self.excess)
        self.release = asyncio.Event()
        lifecycle = Lifecycle()
        lifecycle.advance(Phase.RUNNING)
        self.ports = {}
        debug, metrics = debug_app({"slow": self._slow}), metrics_app(_metrics)
        for name, app in (("debug", debug), ("metrics", metrics), ("ready", ready_app(lifecycle))):
            self.ports[name] = free_port()
            self.server.add(app, bind(LOOPBACK, self.ports[name], f"ports.{name}"))

    async def _slow(self) -> Any:
        await self.release.wait()
        return "at last"

    async def connect(self, name: str) -> Opened:
        return await asyncio.open_connection("127.0.0.1", self.ports[name])

    async def get(self, name: str, path: bytes) -> bytes:
        reader, writer = await self.connect(name)
        writer.write(HEAD % path)
        line = await reader.readline()
        writer.close()
        return line.strip()


async def _metrics(_accept: str) -> tuple[bytes, str]:
    return b"x 1\n", "text/plain"


def house(story: Callable[[House], Awaitable[None]], **limits: int) -> None:
    async def run() -> None:
        built = House(**limits)
        task = asyncio.ensure_future(built.server.run())
        try:
            await story(built)
        finally:
            built.release.set()
            built.server.stop()
            await task

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.parametrize(("name", "path"), [("debug", b"/debug"), ("metrics", b"/metrics"), ("ready", b"/ready")])
@pytest.mark.parametrize("says", [b"", b"GET / HTTP/1.1\r\nX: "], ids=["silent", "half a head"])
def test_idle_connections_are_in_nobodys_way(name: str, path: bytes, says: bytes) -> None:
    async def story(here: House) -> None:
        held = [await here.connect(name) for _ in range(100)]
        for _, writer in held:
            writer.write(says)
        assert await here.get(name, path) == b"HTTP/1.1 200 OK"
        assert await here.get("ready", b"/ready") == b"HTTP/1.1 200 OK"
        reader, _ = held[0]
        await eventually(reader.at_eof) if not says else None
        assert here.excess.counts["admin_connections_per_peer", "127.0.0.1"] >= 100 + 1 - 64
        for _, writer in held:
            writer.close()

    house(story)


def test_what_is_being_answered_does_not_give_way() -> None:
    async def story(here: House) -> None:
        busy = [await here.connect("debug") for _ in range(2)]
        for _, writer in busy:
            writer.write(HEAD % b"/debug/slow")
        parts = here.server._parts
        await eventually(lambda: len(parts[0][0].server_state.tasks) == 2)
        reader, writer = await here.connect("debug")
        assert await _read(reader) == b"", "all of its peer's connections are being answered"
        writer.close()
        here.release.set()
        for reader, writer in busy:
            assert (await reader.readline()).strip() == b"HTTP/1.1 200 OK"
            writer.close()

    house(story, admin_connections_per_peer=2)


@pytest.mark.parametrize("says", [b"", b"GET / HTTP/1.1\r\n", HEAD % b"/debug", HEAD % b"/debug/slow"])
def test_every_connection_has_its_time(says: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a request, with half of one, after an answer, and while one is made."""
    monkeypatch.setattr(module, "HEAD_SECONDS", 0.05)
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.02)

    async def story(here: House) -> None:
        reader, writer = await here.connect("debug")
        writer.write(says)
        while await _read(reader):
            pass
        writer.close()

    house(story)


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(1 << 16)
    except ConnectionResetError:
        return b""


def test_an_ipv6_peer_has_a_share_too() -> None:
    async def story(here: House) -> None:
        held = []
        for _ in range(3):
            client = socket.create_connection(("::1", here.ports["ready"]))
            client.setblocking(False)
            held.append(client)
        loop = asyncio.get_running_loop()
        with pytest.raises((ConnectionResetError, AssertionError)):
            assert await loop.sock_recv(held[0], 1), "closed"
        assert here.excess.counts == {("admin_connections_per_peer", "::/64"): 1}
        for client in held:
            client.close()

    house(story, admin_connections_per_peer=2)
