"""Which program holds a port, over real sockets; and what pyroute2 must not do to the process that asks."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from nodeagent.doctor.listeners import PortHolder, holder_of

LOOPBACK = {"v4": "127.0.0.1", "v6": "::1", "v4-mapped": "::ffff:127.0.0.1"}


@pytest.fixture
def me() -> PortHolder:
    return PortHolder(os.getpid(), Path("/proc/self/comm").read_text().rstrip("\n"))


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize("family", LOOPBACK)
def test_who_holds_a_port(family: str, kind: socket.SocketKind, me: PortHolder) -> None:
    with socket.socket(socket.AF_INET if family == "v4" else socket.AF_INET6, kind) as holding:
        holding.bind((LOOPBACK[family], 0))
        port = holding.getsockname()[1]
        if kind is socket.SOCK_STREAM:
            holding.listen()
        assert holder_of(port, kind) == me
    assert holder_of(port, kind) is None


def test_the_listener_is_named_and_not_one_of_its_clients(listener: socket.socket, me: PortHolder) -> None:
    """A child has the accepted connection, whose own port is the listener's too."""
    with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
        child = subprocess.Popen(["sleep", "60"], pass_fds=[accepted.fileno()])
        try:
            accepted.close()
            assert holder_of(listener.getsockname()[1], socket.SOCK_STREAM) == me
        finally:
            child.kill()
            child.wait()


def test_asking_leaves_nothing_behind(listener: socket.socket, me: PortHolder) -> None:
    """pyroute2 makes an event loop for each socket of its own."""

    def open_descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    port = listener.getsockname()[1]
    holder_of(port, socket.SOCK_STREAM)
    before = open_descriptors(), threading.active_count()
    for _ in range(20):
        assert holder_of(port, socket.SOCK_STREAM) == me
    assert (open_descriptors(), threading.active_count()) == before


def test_it_may_be_asked_from_a_thread_of_a_process_that_runs_uvloop(listener: socket.socket, me: PortHolder) -> None:
    async def ask() -> PortHolder | None:
        return await asyncio.to_thread(holder_of, listener.getsockname()[1], socket.SOCK_STREAM)

    assert uvloop.run(ask()) == me


@pytest.mark.parametrize("module", ["nodeagent.cli.main", "nodeagent.main", "nodeagent.worker.main"])
def test_neither_the_agent_nor_a_command_pays_for_pyroute2(module: str) -> None:
    code = f"import {module}, sys; sys.exit('pyroute2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
