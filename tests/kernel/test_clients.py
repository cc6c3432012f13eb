"""A server sees for whom the agent connects to it: in getpeername() and in accept(), and nothing is left over."""

from __future__ import annotations

import errno
import json
import shutil
import socket
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from control.wire.address import SocketAddress
from nodeagent.capture.clients import ClientTable
from nodeagent.loader.abi import DIAL_MAP
from nodeagent.loader.pins import map_pin
from tests.kernel.conftest import CLIENT_SECONDS, FAMILIES, Family, Node, connect

V4 = FAMILIES[0]
IPPROTO_MPTCP = 262
CLIENT4 = SocketAddress("192.0.2.7", 40007)
CLIENT6 = SocketAddress("2001:db8::7", 40008)
PORT = 8080


@pytest.fixture
def speaker(node: Node) -> Callable[..., Any]:
    """The agent's part: connects as it does, from a cgroup of the node, and says what its own socket is called."""
    cgroup = node.lab.cgroup("agent")

    def speak(ip: str, port: int, client: SocketAddress | None, source: tuple[str, int] | None = None) -> Any:
        def run() -> tuple[Any, Any]:
            table = ClientTable(node.capture.pin_dir)
            with socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET) as mine:
                mine.settimeout(CLIENT_SECONDS)
                if source:
                    mine.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    mine.bind(source)
                table.announce(mine.fileno(), client)
                mine.connect((ip, port))
                return mine.getsockname()[:2], mine.getpeername()[:2]

        return node.lab.client(cgroup, run)

    return speak


def dials(node: Node) -> list[Any]:
    """What waits in the kernel for a server to take it."""
    tool = shutil.which("bpftool") or "/usr/sbin/bpftool"
    pin = map_pin(node.capture.pin_dir, DIAL_MAP)
    done = subprocess.run([tool, "-j", "map", "dump", "pinned", pin], capture_output=True, check=True)
    found: list[Any] = json.loads(done.stdout)
    return found


def server_on(node: Node, address: str, *, backlog: int = 16, protocol: int = 0) -> socket.socket:
    """A listener of the workload; ``::`` is dual stack."""

    def make() -> socket.socket:
        listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, PORT))
        listener.listen(backlog)
        return listener

    return node.lab.made_in(node.app, make)


def accept(listener: socket.socket) -> tuple[Any, Any]:
    """What accept() and getpeername() say of the next connection."""
    connection, told = listener.accept()
    with connection:
        return told[:2], connection.getpeername()[:2]


@pytest.mark.parametrize(
    ("bound", "dialled", "client", "shown"),
    [
        pytest.param("10.9.9.9", "10.9.9.9", CLIENT4, CLIENT4.ip, id="v4"),
        pytest.param("0.0.0.0", "127.0.0.1", CLIENT4, CLIENT4.ip, id="v4-through-loopback"),
        pytest.param("fd09::9", "fd09::9", CLIENT6, CLIENT6.ip, id="v6"),
        pytest.param("::", "10.9.9.9", CLIENT4, f"::ffff:{CLIENT4.ip}", id="mapped"),
        pytest.param("::", "fd09::9", CLIENT6, CLIENT6.ip, id="dual-stack-v6"),
        pytest.param("::", "::1", CLIENT4, f"::ffff:{CLIENT4.ip}", id="v4-client-of-a-v6-socket"),
        pytest.param("::", "10.9.9.9", CLIENT6, CLIENT6.ip, id="v6-client-of-a-mapped-socket"),
    ],
)
def test_the_server_is_shown_the_client(
    node: Node, speaker: Callable[..., Any], bound: str, dialled: str, client: SocketAddress, shown: str
) -> None:
    listener = server_on(node, bound)
    _, asked = speaker(dialled, PORT, client)
    assert accept(listener) == ((shown, client.port), (shown, client.port))
    assert asked == (dialled, PORT), "the agent's own socket goes on showing its server"
    assert node.capture.counters()["client_told"] == 1
    assert not dials(node), "the server's socket took the record"


@pytest.mark.parametrize("client", [CLIENT6, None], ids=["v6-client-of-a-v4-socket", "client-not-known"])
def test_what_cannot_be_shown_leaves_the_agents_address(
    node: Node, speaker: Callable[..., Any], client: SocketAddress | None
) -> None:
    listener = server_on(node, "10.9.9.9")
    name, _ = speaker("10.9.9.9", PORT, client)
    assert accept(listener) == (name, name)
    assert not dials(node)


def test_others_are_shown_as_they_are(node: Node, speaker: Callable[..., Any], family: Family) -> None:
    """Also from the port that the agent used just before."""
    listener = server_on(node, "::")
    source = (family.address(family.local), 40021)
    if family.name != "mapped":
        speaker(family.local, PORT, CLIENT4, source)
        accept(listener)
    told = node.lab.client(node.plain, lambda: connect(family, family.local, PORT, source))
    seen = (told["name"][0] if ":" in told["name"][0] else f"::ffff:{told['name'][0]}", 40021)
    assert accept(listener) == (seen, seen)


def test_a_refused_connection_leaves_nothing(node: Node, speaker: Callable[..., Any], family: Family) -> None:
    with pytest.raises(ConnectionRefusedError):
        speaker(family.local, PORT, CLIENT4)
    assert not dials(node)


def test_a_connection_that_is_given_up_leaves_nothing(node: Node, speaker: Callable[..., Any]) -> None:
    """Nobody answers; the agent is killed while it waits."""
    listener = server_on(node, "10.9.9.9", backlog=0)
    cgroup = node.lab.cgroup("agent")

    def fill_and_wait() -> int:
        table = ClientTable(node.capture.pin_dir)
        sockets = []
        for number in range(8):
            mine = socket.socket()
            mine.setblocking(False)
            table.announce(mine.fileno(), SocketAddress("192.0.2.7", 1000 + number))
            assert mine.connect_ex(("10.9.9.9", PORT)) in (0, errno.EINPROGRESS)
            sockets.append(mine)
        return len(dials(node))

    assert node.lab.client(cgroup, fill_and_wait) > 0, "some waited for an answer"
    assert not dials(node), "and with them went their records"
    listener.close()


def test_another_connection_from_the_same_port_is_not_taken_for_it(node: Node, speaker: Callable[..., Any]) -> None:
    """The agent's socket, still on its way, and a stranger's share a port: their servers tell them apart."""
    server_on(node, "10.9.9.9", backlog=0)
    elsewhere = node.lab.listen("10.9.9.9", PORT + 1)
    agent = node.lab.cgroup("agent")

    def both() -> tuple[int, int]:
        table = ClientTable(node.capture.pin_dir)
        waiting = [socket.socket() for _ in range(6)]
        for number, mine in enumerate(waiting):
            mine.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            mine.bind(("10.9.9.9", 41000 + number))
            mine.setblocking(False)
            table.announce(mine.fileno(), CLIENT4)
            mine.connect_ex(("10.9.9.9", PORT))
        before = len(dials(node))
        with socket.socket() as stranger:
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            stranger.bind(("10.9.9.9", 41005))
            stranger.connect(("10.9.9.9", PORT + 1))
        return before, len(dials(node))

    before, after = node.lab.client(agent, both)
    assert before == after > 0
    assert accept(elsewhere)[0] == ("10.9.9.9", 41005)


def test_an_mptcp_server_sees_it_too(node: Node, speaker: Callable[..., Any]) -> None:
    try:
        listener = server_on(node, "::", protocol=IPPROTO_MPTCP)
    except OSError as error:
        assert error.errno in (errno.EPROTONOSUPPORT, errno.ENOPROTOOPT), "only a kernel without MPTCP may refuse"
        pytest.skip("this kernel has no MPTCP")
    speaker("10.9.9.9", PORT, CLIENT4)
    shown = (f"::ffff:{CLIENT4.ip}", CLIENT4.port)
    assert accept(listener) == (shown, shown)
