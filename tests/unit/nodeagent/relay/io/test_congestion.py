"""Which congestion control a connection has: the host's, but where the path is short and that is BBR."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from nodeagent.relay.io.sockets import NEAR_MICROSECONDS, UNPACED, unpaced_if_near
from tests.support.polled import congestion
from tests.support.stories import Stage, story

NO_SAMPLE = 2**32 - 1


class Handle:
    """A socket whose path is as long as it says."""

    def __init__(self, control: bytes, trip: int, *, locked: bool = False) -> None:
        self.control = control
        self._trip = trip
        self._locked = locked

    def getsockopt(self, _level: int, option: int, _size: int) -> bytes:
        if option == socket.TCP_CONGESTION:
            return self.control.ljust(16, b"\0")
        assert option == socket.TCP_INFO
        return struct.pack("=148xI", self._trip)

    def setsockopt(self, _level: int, option: int, value: bytes) -> None:
        assert option == socket.TCP_CONGESTION
        if self._locked:
            raise OSError(errno.EPERM, "congctl lock")
        self.control = value


class Holder:
    """As much of a transport as is asked for."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def get_extra_info(self, _name: str) -> Any:
        return self._handle


def after(handle: Handle | None) -> bool:
    return unpaced_if_near(Holder(handle))  # type: ignore[arg-type]


@pytest.mark.parametrize("control", [b"bbr", b"bbr2"])
def test_on_a_short_path_bbr_gives_way(control: bytes) -> None:
    handle = Handle(control, NEAR_MICROSECONDS - 1)
    assert after(handle)
    assert handle.control == b"reno"


@pytest.mark.parametrize("trip", [NEAR_MICROSECONDS, NO_SAMPLE])
def test_on_a_long_or_unknown_path_it_stays(trip: int) -> None:
    handle = Handle(b"bbr", trip)
    assert not after(handle)
    assert handle.control == b"bbr"


@pytest.mark.parametrize("control", [b"cubic", b"reno", b"dctcp"])
def test_any_other_stays_on_every_path(control: bytes) -> None:
    handle = Handle(control, 1)
    assert not after(handle)
    assert handle.control == control


def test_the_lock_of_a_route_is_respected() -> None:
    handle = Handle(b"bbr", 1, locked=True)
    assert not after(handle)
    assert handle.control == b"bbr"


def test_a_connection_that_is_gone_is_no_error() -> None:
    assert not after(None)


FAMILIES = {
    "v4": ("127.0.0.1", socket.AF_INET),
    "v6": ("::1", socket.AF_INET6),
    "v4-mapped": ("::ffff:127.0.0.1", socket.AF_INET6),
}


@pytest.fixture(params=list(FAMILIES.values()), ids=list(FAMILIES))
def connected(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection of this host, under BBR."""
    address, family = request.param
    with socket.socket(family) as listener, socket.socket(family) as client:
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")
        except OSError as error:
            pytest.skip(f"no BBR in this kernel: {error}")
        listener.bind((address, 0))
        listener.listen()
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        with server:
            server.sendall(b"1")
            client.recv(1)
            client.sendall(b"2")
            server.recv(1)
            yield client, server


def test_the_kernel_does_so_at_both_ends(connected: tuple[socket.socket, socket.socket]) -> None:
    for end in connected:
        assert unpaced_if_near(Holder(end))  # type: ignore[arg-type]
        assert congestion(end) == UNPACED


@story
async def test_a_tunnel_of_this_host_is_not_paced(mesh: Stage) -> None:
    client, server = await mesh.pair(Stage.VIP_FAR)
    await mesh.send(client, b"1")
    assert await mesh.read(server, 1) == b"1"
    host = congestion(mesh.listener)
    expected = UNPACED if host.startswith(b"bbr") else host
    tunnels = [*mesh.a.outbound.pool, *mesh.b.inbound.tunnels]
    assert len(tunnels) == 2
    assert [congestion(tunnel.transport.get_extra_info("socket")) for tunnel in tunnels if tunnel.transport] == [
        expected,
        expected,
    ]
