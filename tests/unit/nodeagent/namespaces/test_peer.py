"""Whether the other end of a connection is still held by a process."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from nodeagent.namespaces.peer import is_held

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(params=["v4", "v6", "v4-mapped"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """(ours, theirs), connected; in the mapped case theirs is an IPv6 socket."""
    mapped = request.param == "v4-mapped"
    family = socket.AF_INET if request.param == "v4" else socket.AF_INET6
    ip = "::1" if request.param == "v6" else "127.0.0.1"
    with socket.create_server((ip, 0), family=socket.AF_INET6 if ip == "::1" else socket.AF_INET) as server:
        theirs = socket.socket(family)
        theirs.connect((f"::ffff:{ip}" if mapped else ip, server.getsockname()[1]))
        ours, _ = server.accept()
    with ours, theirs:
        yield ours, theirs


def ends(ours: socket.socket) -> tuple[tuple[str, int], tuple[str, int]]:
    return ours.getpeername()[:2], ours.getsockname()[:2]


def test_an_open_socket_is_held(pair: Pair) -> None:
    ours, _ = pair
    assert is_held(None, *ends(ours))


def test_a_half_closed_one_is_held(pair: Pair) -> None:
    ours, theirs = pair
    theirs.shutdown(socket.SHUT_WR)
    assert is_held(None, *ends(ours))


def test_an_orphan_with_unsent_bytes_is_not(pair: Pair) -> None:
    """Its process closed it in order; the kernel still has to deliver what is in it."""
    ours, theirs = pair
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            theirs.send(bytes(65536))
    theirs.close()
    assert not is_held(None, *ends(ours))
    assert ours.recv(10) == bytes(10)


def test_a_reset_one_is_not(pair: Pair) -> None:
    ours, theirs = pair
    asked = ends(ours)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    theirs.close()
    assert not is_held(None, *asked)


def test_it_is_that_connection_and_no_other(pair: Pair) -> None:
    (ip, port), ours = ends(pair[0])
    assert not is_held(None, (ip, port), (ours[0], 1))
