"""Which congestion control a tunnel has: the host's, but where the path is short and that is BBR."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest

from nodeagent.net.sockets import NEAR_MICROSECONDS, UNPACED, paced_if_far, unpaced_at_first
from tests.support.polled import congestion
from tests.support.stories import Stage, story

NO_SAMPLE = 2**32 - 1


FAMILIES = {
    "v4": ("127.0.0.1", socket.AF_INET),
    "v6": ("::1", socket.AF_INET6),
    "v4-mapped": ("::ffff:127.0.0.1", socket.AF_INET6),
}


class Handle:
    """A connected socket whose path is as long as it says."""

    family = socket.AF_INET

    def __init__(self, control: bytes, trip: int) -> None:
        self.control = control
        self._trip = trip

    def getsockopt(self, _level: int, option: int, _size: int) -> bytes:
        if option == socket.TCP_CONGESTION:
            return self.control.ljust(16, b"\0")
        assert option == socket.TCP_INFO
        return struct.pack("=148xI", self._trip)

    def setsockopt(self, _level: int, option: int, value: bytes) -> None:
        assert option == socket.TCP_CONGESTION
        self.control = value


class Holder:
    """As much of a transport as is asked for."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def get_extra_info(self, _name: str) -> Any:
        return self._handle


@pytest.fixture(params=[b"bbr", b"cubic"])
def hosts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The host's choice: what a new socket has."""
    original = socket.socket

    class Fresh(original):  # type: ignore[valid-type,misc]
        def getsockopt(self, level: int, option: int, *size: int) -> Any:
            if (level, option) == (socket.IPPROTO_TCP, socket.TCP_CONGESTION):
                return request.param.ljust(16, b"\0")
            return original.getsockopt(self, level, option, *size)

    monkeypatch.setattr(socket, "socket", Fresh)
    return bytes(request.param)


def far(handle: Handle | None) -> bool:
    return paced_if_far(Holder(handle))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("control", "then"), [(b"bbr", b"reno"), (b"bbr2", b"reno"), (b"cubic", b"cubic"), (b"dctcp", b"dctcp")]
)
def test_no_tunnel_begins_with_bbr(control: bytes, then: bytes) -> None:
    handle = Handle(control, 1)
    unpaced_at_first(handle)  # type: ignore[arg-type]
    assert handle.control == then


@pytest.mark.parametrize("trip", [NEAR_MICROSECONDS, NO_SAMPLE])
def test_on_a_long_or_unknown_path_a_host_that_wants_it_gets_it(hosts: bytes, trip: int) -> None:
    handle = Handle(UNPACED, trip)
    assert far(handle) is hosts.startswith(b"bbr")
    assert handle.control == (b"bbr" if hosts == b"bbr" else UNPACED)


def test_on_a_short_path_it_stays_away(hosts: bytes) -> None:
    handle = Handle(UNPACED, NEAR_MICROSECONDS - 1)
    assert not far(handle)
    assert handle.control == UNPACED


def test_the_choice_of_a_route_stands(hosts: bytes) -> None:
    handle = Handle(b"dctcp", NEAR_MICROSECONDS)
    assert not far(handle)
    assert handle.control == b"dctcp"


def test_a_connection_that_is_gone_is_no_error() -> None:
    assert not far(None)


@pytest.mark.parametrize(("address", "family"), FAMILIES.values(), ids=FAMILIES)
def test_the_kernel_takes_it_over_to_what_is_accepted(address: str, family: socket.AddressFamily) -> None:
    with socket.socket(family) as listener, socket.socket(family) as client:
        for handle in (listener, client):
            handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")
            unpaced_at_first(handle)
        listener.bind((address, 0))
        listener.listen()
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        with server:
            assert congestion(client) == congestion(server) == UNPACED
            assert not paced_if_far(Holder(server))  # type: ignore[arg-type]


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
