"""Which way connections go, of all that a network namespace has."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from control.wire.address import SocketAddress, packed_ip
from nodeagent.capture.standing import Circumstances, Way, standing
from nodeagent.namespaces.sockets import CLOSE_WAIT, ESTABLISHED, LISTEN, TcpSocket

FIN_WAIT1 = 4
MINE, THEIRS, AGENTS, ORPHAN = 10, 20, 30, 0
NODE, SERVER, STRANGER = "10.0.0.1", "10.0.0.2", "192.0.2.1"


def end(text: str) -> tuple[bytes, int]:
    ip, _, port = text.rpartition(":")
    return packed_ip(ip), int(port)


def sock(local: str, remote: str = "0.0.0.0:0", inode: int = MINE, state: int = ESTABLISHED) -> TcpSocket:
    return TcpSocket(2, state, end(local), end(remote), inode, 0, 0, f"{local}>{remote}".encode())


def ways(*sockets: TcpSocket, ports: Collection[int] = (8080,), probes: Collection[int] = ()) -> list[Way]:
    around = Circumstances(
        owns=lambda each: each.inode in (MINE, ORPHAN) and each.remote[1] != 1,
        agent={AGENTS}, capture_port=15001, ports=ports, probe_ports=probes,
        destinations={SocketAddress(SERVER, 8080), SocketAddress("2001:db8::2", 8080)},
    )  # fmt: skip
    return [each.way for each in standing(sockets, around)]


LISTENER = sock("::0:8080", state=LISTEN)


@pytest.mark.parametrize("remote", [f"{SERVER}:8080", f"::ffff:{SERVER}:8080", "2001:db8::2:8080"])
def test_a_client_that_went_past_the_mesh(remote: str) -> None:
    assert ways(sock(f"{NODE}:4000", remote)) == [Way.PAST_OUT]


def test_a_captured_one() -> None:
    for loopback in ("127.0.0.1", "::1"):
        assert ways(sock(f"{loopback}:4000", f"{loopback}:15001")) == [Way.CARRIED_OUT]


def test_a_place_outside_the_mesh_and_loopback() -> None:
    assert ways(sock(f"{NODE}:4000", f"{STRANGER}:443")) == [Way.OUTSIDE]
    assert ways(sock("127.0.0.1:4000", "127.0.0.1:5432")) == []


def test_a_client_that_came_past_the_mesh() -> None:
    assert ways(LISTENER, sock(f"{NODE}:8080", f"{STRANGER}:4000")) == [Way.PAST_IN]
    assert ways(LISTENER, sock(f"{NODE}:8080", f"{STRANGER}:4000", ORPHAN)) == [Way.PAST_IN], "not accepted yet"


def test_a_port_that_the_mesh_does_not_meet_is_left_alone() -> None:
    """DISABLE."""
    assert ways(LISTENER, sock(f"{NODE}:8080", f"{STRANGER}:4000"), ports=(), probes=(8080,)) == []


def test_one_that_the_agent_dialled() -> None:
    served, dialled = sock("127.0.0.1:8080", "127.0.0.1:4000"), sock("127.0.0.1:4000", "127.0.0.1:8080", AGENTS)
    assert ways(LISTENER, served, dialled) == [Way.CARRIED_IN]


def test_the_agents_own_are_nobodys() -> None:
    assert ways(sock(f"{NODE}:4000", f"{SERVER}:8080", AGENTS)) == []


def test_whose_other_end_has_been_closed_may_be_the_agents() -> None:
    served = sock("127.0.0.1:8080", "127.0.0.1:4000", state=CLOSE_WAIT)
    closed = sock("127.0.0.1:4000", "127.0.0.1:8080", ORPHAN, FIN_WAIT1)
    assert ways(LISTENER, served, closed) == []


def test_a_workloads_own_to_itself() -> None:
    served, asked = sock("127.0.0.1:8080", "127.0.0.1:4000"), sock("127.0.0.1:4000", "127.0.0.1:8080")
    assert ways(LISTENER, served, asked) == []


def test_probes_of_the_node_itself() -> None:
    for here in ("127.0.0.1", NODE):
        served = sock(f"{here}:8080", f"{here}:4000")
        assert ways(LISTENER, served, sock(f"{here}:4000", f"{here}:8080", THEIRS), probes=(8080,)) == []
    assert ways(LISTENER, sock(f"{NODE}:8080", f"{STRANGER}:4000"), probes=(8080,)) == [Way.PAST_IN]


def test_orphans_end_by_themselves() -> None:
    assert ways(sock(f"{NODE}:4000", f"{SERVER}:8080", ORPHAN, FIN_WAIT1)) == []


def test_of_others_nothing() -> None:
    assert ways(sock(f"{NODE}:4000", f"{SERVER}:8080", THEIRS)) == []
