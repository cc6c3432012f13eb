"""The sockets of a network namespace, as the kernel tells of them, and ending them. Real sockets, on loopback."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest

from control.wire.address import packed_ip
from nodeagent.namespaces import diag
from nodeagent.namespaces.sockets import ESTABLISHED, LISTEN, CannotEndError, TcpSocket, end, tcp_sockets


@pytest.fixture(params=["v4", "v6", "v4-mapped"])
def pair(request: pytest.FixtureRequest) -> Any:
    """(listener, client, accepted)."""
    v6 = request.param != "v4"
    ip = {"v4": "127.0.0.1", "v6": "::1", "v4-mapped": "::ffff:127.0.0.1"}[request.param]
    listens = socket.AF_INET if request.param == "v4" else socket.AF_INET6
    with (
        socket.create_server(
            ("" if listens == socket.AF_INET else "::", 0), family=listens, dualstack_ipv6=v6
        ) as server,
        socket.socket(listens) as client,
    ):
        client.connect((ip, server.getsockname()[1]))
        accepted, _ = server.accept()
        with accepted:
            yield ip, server, client, accepted


def found(of: socket.socket) -> TcpSocket:
    inode = os.fstat(of.fileno()).st_ino
    return next(each for each in tcp_sockets(None) if each.inode == inode)


def test_what_the_kernel_tells(pair: Any) -> None:
    ip, server, client, accepted = pair
    told, answer = found(client), found(accepted)
    assert told.local == (packed_ip(ip), client.getsockname()[1]) == answer.remote
    assert told.remote == (packed_ip(ip), server.getsockname()[1]) == answer.local
    assert told.state == answer.state == ESTABLISHED and found(server).state == LISTEN
    assert told.uid == os.getuid() and told.cgroup == answer.cgroup != 0


def test_one_that_waits_for_accept_has_no_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        ends = (client.getpeername(), client.getsockname())
        (waiting,) = [each for each in tcp_sockets(None) if (each.local[1], each.remote[1]) == (ends[0][1], ends[1][1])]
        assert (waiting.inode, waiting.state) == (0, ESTABLISHED)


@pytest.mark.skipif(os.geteuid() != 0, reason="root ends the sockets of others")
def test_ending_one_and_no_other(pair: Any) -> None:
    _, server, client, accepted = pair
    target = found(client)
    assert end(None, [target]) == [target]
    with pytest.raises(ConnectionAbortedError):
        client.recv(1)
    with pytest.raises(ConnectionResetError):
        accepted.recv(1)
    assert end(None, [target]) == [], "it is gone, and another with its addresses would not be it"
    assert found(server).state == LISTEN


class Refusing:
    """A kernel that answers every request with this error."""

    def __init__(self, error: int) -> None:
        self._error = error

    def __enter__(self) -> Refusing:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def sendto(self, *_: object) -> None:
        pass

    def recv(self, _: int) -> bytes:
        return diag.HEADER.pack(36, diag.ERROR, 0, 1, 0) + struct.pack("=i", -self._error) + bytes(16)


@pytest.mark.parametrize(
    ("error", "why"),
    [(errno.EOPNOTSUPP, "CONFIG_INET_DIAG_DESTROY"), (errno.EPERM, "only root"), (errno.EIO, "Input/output error")],
)
def test_why_it_cannot_be_done(monkeypatch: pytest.MonkeyPatch, error: int, why: str) -> None:
    refusing: Callable[..., Refusing] = lambda _: Refusing(error)  # noqa: E731
    monkeypatch.setattr(diag, "asker", refusing)
    with pytest.raises(CannotEndError, match=why):
        end(None, [TcpSocket(2, 1, (b"", 0), (b"", 0), 1, 0, 0, bytes(48))])
