"""What the listening sockets of a worker pass on to the connections that they accept."""

from __future__ import annotations

import os
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from control.wire.address import SocketAddress
from nodeagent.namespaces.handle import own
from nodeagent.net.sockets import UNPACED
from nodeagent.worker.listeners import WorkerListeners
from tests.support.polled import Bench, congestion, polled


@pytest.fixture(autouse=True, scope="module")
def _our_namespace() -> None:
    """Its handle is kept for good: not one that a test leaves open."""
    own()


class Sockets:
    """Keeps the descriptors of the listeners that the kernel is told of."""

    def __init__(self) -> None:
        self.marked: list[int] = []
        self.met: dict[int, SocketAddress] = {}
        self.plaintext: dict[int, int] = {}

    def mark(self, descriptor: int) -> None:
        with socket.socket(fileno=os.dup(descriptor)) as same:
            assert same.getsockname()[1] == 0, "before it is bound"
        self.marked.append(descriptor)

    def meet(self, _cookie: int, at: SocketAddress, descriptor: int, *, udp: bool = False) -> None:
        assert not udp
        self.met[descriptor] = at

    def meet_plaintext(self, _cookie: int, family: int, descriptor: int) -> None:
        self.plaintext[descriptor] = family


class Listened(WorkerListeners):
    """Listeners whose sockets can be looked at."""

    @property
    def handles(self) -> list[socket.socket]:
        return [handle for server in self._servers for handle in server.sockets]


@polled
async def test_captured_connections_are_of_the_node_plaintext_comes_from_anywhere(bench: Bench) -> None:
    nobody: Any = SimpleNamespace(leg=lambda _inside: None)
    sockets: Any = Sockets()
    captured = Listened(bench.poller, sockets)
    plaintext = Listened(bench.poller, sockets)
    captured.open_captured(nobody, 0)
    plaintext.open_plaintext(nobody, 0)
    host = congestion(bench.server()[0])
    assert {congestion(handle) for handle in captured.handles} == {UNPACED}
    assert {congestion(handle) for handle in plaintext.handles} == {host}
    everything = [handle.fileno() for handle in (*captured.handles, *plaintext.handles)]
    assert sockets.marked == everything == list(sockets.met)
    assert list(sockets.plaintext.items()) == [
        (handle.fileno(), 6 if handle.family == socket.AF_INET6 else 4) for handle in plaintext.handles
    ]
    captured.close()
    plaintext.close()
