"""What the listening sockets of a worker pass on to the connections that they accept."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import pytest

from nodeagent.namespaces.handle import own
from nodeagent.net.sockets import UNPACED
from nodeagent.worker.listeners import Listeners
from tests.support.polled import Bench, congestion, polled


@pytest.fixture(autouse=True, scope="module")
def _our_namespace() -> None:
    """Its handle is kept for good: not one that a test leaves open."""
    own()


class Steers:
    """Keeps the descriptors of the listeners that the kernel is to bring connections to."""

    def __init__(self) -> None:
        self.descriptors: list[int] = []

    def add(self, _cookie: int, descriptor: int, *, v6: bool) -> None:
        self.descriptors.append(descriptor)


class Listened(Listeners):
    """Listeners whose sockets can be looked at."""

    @property
    def handles(self) -> list[socket.socket]:
        return [handle for server in self._servers for handle in server.sockets]


@polled
async def test_captured_connections_are_of_the_node_plaintext_comes_from_anywhere(bench: Bench) -> None:
    nobody: Any = SimpleNamespace(leg=lambda _inside: None)
    captured, plaintext = Listened(bench.poller), Listened(bench.poller)
    steers: Any = Steers()
    captured.open_captured(nobody, 0)
    plaintext.open_plaintext(nobody, 0, steers)
    host = congestion(bench.server()[0])
    assert {congestion(handle) for handle in captured.handles} == {UNPACED}
    assert {congestion(handle) for handle in plaintext.handles} == {host}
    assert steers.descriptors == [handle.fileno() for handle in plaintext.handles]
    captured.close()
    plaintext.close()
