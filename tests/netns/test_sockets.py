"""However a program makes its sockets, the mesh takes them; at either end, on one node and across nodes."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.conftest import MakeShop
from tests.netns.lab import Node, eventually
from tests.netns.servers import Server, echo, read_exactly, roundtrip
from tests.netns.shop import PORT, TARGET_PORT, Behind, Family, Shop
from tests.netns.spliced import Pair

HERE = Path(__file__).parent
MANY = 10_000
AT_ONCE = 50
TFO_ALWAYS = 0x1 | 0x2 | 0x4 | 0x200 | 0x400
"""Client and server, on every listener, without cookies."""
GUARD_SECONDS = 300.0
"""Beyond this the story hangs; how long it takes is not what it is about."""
WORDS = "said along with the SYN, or soon after"


@contextlib.contextmanager
def dialled(shop: Shop, behind: Behind, family: Family, how: str, first: str = "") -> Iterator[socket.socket]:
    """A connection of the client, made in that way, and carried by the mesh."""
    since = shop.mesh.a.access_position()
    with shop.client.connect(behind.address(family), PORT, how=how, first=first) as connection:
        port = connection.getsockname()[1]
        yield connection

    def logged() -> bool:
        lines = shop.mesh.a.access(since=since, direction="outbound", dst_workload=behind.name, reason="ok")
        return any(line["src.addr"].endswith(f":{port}") for line in lines)

    eventually(logged, what="the connection went through the mesh and ended in order")


@contextlib.contextmanager
def multipath() -> Iterator[None]:
    """Only a kernel without MPTCP may refuse."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EPROTONOSUPPORT, errno.ENOPROTOOPT):
            raise
        pytest.skip("this kernel has no MPTCP")


def test_a_connect_that_does_not_wait(shop: Shop, behind: Behind, family: Family) -> None:
    with behind.serve(echo), dialled(shop, behind, family, "non-blocking") as connection:
        assert connection.getpeername()[:2] == (behind.address(family), PORT)
        assert roundtrip(connection, os.urandom(1_000_000))
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""


@pytest.mark.parametrize("how", ["fastopen-connect", "fastopen-sendto"])
def test_tcp_fast_open(shop: Shop, behind: Behind, family: Family, how: str) -> None:
    with behind.serve(echo), dialled(shop, behind, family, how, WORDS) as connection:
        assert read_exactly(connection, len(WORDS)) == WORDS.encode()
        assert roundtrip(connection, b"and then") == b"and then"
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""


def test_hosts_on_which_every_listener_is_fast_open(make_shop: MakeShop) -> None:
    """`net.ipv4.tcp_fastopen` so that data in a SYN is accepted without a cookie: the kernel would show the agent such
    a connection before its client's end is there, and nobody could tell whose it is.
    """
    shop = make_shop()
    for node in shop.mesh.nodes:
        set_up = node.outside.run("sh", "-c", f"echo {TFO_ALWAYS} > /proc/sys/net/ipv4/tcp_fastopen")
        assert set_up.returncode == 0, set_up.stderr
        node.stop_agent()
        node.start_agent()
    for node in shop.mesh.nodes:
        node.wait_ready()
    for behind in (shop.server, shop.local):
        for family in Family:
            with behind.serve(echo):
                for how in ("fastopen-connect", "fastopen-sendto"):
                    with dialled(shop, behind, family, how, WORDS) as connection:
                        assert read_exactly(connection, len(WORDS)) == WORDS.encode()
    accepted_early = counter(shop.mesh.a, "TCPFastOpenPassive")
    assert accepted_early == 0, f"{accepted_early} connections came to the agent before anybody knew whose they are"


def counter(node: Node, name: str) -> int:
    """One of the kernel's, of the node's network namespace."""
    names, values = node.outside.run("cat", "/proc/net/netstat").stdout.decode().splitlines()[:2]
    return int(dict(zip(names.split(), values.split(), strict=True))[name])


@pytest.mark.parametrize("end", ["client", "server", "both"])
def test_multipath_tcp(shop: Shop, behind: Behind, family: Family, end: str) -> None:
    """Go programs listen so by default."""
    how = "plain" if end == "server" else "mptcp"
    with multipath():
        listener = behind.spot.listen(TARGET_PORT, kind="plain" if end == "client" else "mptcp")
    with Server(listener, echo), dialled(shop, behind, family, how) as connection:
        assert connection.getpeername()[:2] == (behind.address(family), PORT)
        data = os.urandom(1_000_000)
        assert roundtrip(connection, data) == data
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""


@pytest.mark.parametrize("end", ["client", "server", "both"])
def test_multipath_tcp_where_others_are_spliced(shop: Shop, family: Family, end: str) -> None:
    """Both ends read as those do whose bytes go the short way; whether these do, they arrive."""
    with multipath():
        listener = shop.local.spot.listen(TARGET_PORT, kind="plain" if end == "client" else "mptcp")
    how = "plain" if end == "server" else "mptcp"
    with listener, shop.client.connect(shop.local.address(family), PORT, how=how) as client:
        server = listener.accept()[0]
        with server:
            client.settimeout(20)
            server.settimeout(20)
            flow = Pair(shop, client, server)
            for size in (1, 100, 70_000, 1, 300_000):
                flow.exchange(os.urandom(size))
            client.shutdown(socket.SHUT_WR)
            assert server.recv(1) == b""
            server.sendall(b"the rest")
            server.close()
            assert read_exactly(client, 8) == b"the rest"
            assert client.recv(1) == b""


def test_servers_that_share_a_port(shop: Shop, behind: Behind, family: Family) -> None:
    """SO_REUSEPORT: two processes, say; the kernel chooses, and each gets some."""
    with (
        Server(behind.spot.listen(TARGET_PORT, kind="reuseport"), echo) as one,
        Server(behind.spot.listen(TARGET_PORT, kind="reuseport"), echo) as two,
    ):
        for number in range(40):
            word = b"%d" % number
            with shop.dial(behind, family) as connection:
                assert roundtrip(connection, word) == word
        counts = len(one.connections), len(two.connections)
    assert sum(counts) == 40 and min(counts) > 0, counts


def test_a_program_reaches_itself_through_its_service(shop: Shop, behind: Behind, family: Family) -> None:
    """The only endpoint of the service is the workload that asks; the mesh carries it there and back."""
    node = behind.node
    since = node.access_position()
    with behind.serve(echo), shop.dial(behind, family, source=behind.spot) as connection:
        assert roundtrip(connection, b"it is me") == b"it is me"
    eventually(
        lambda: node.access(since=since, direction="outbound", src_workload=behind.name, dst_workload=behind.name),
        what="a line of itself to itself",
    )


def test_a_program_reaches_itself_at_its_workloads_address(shop: Shop, behind: Behind, family: Family) -> None:
    address = family.form(behind.node.v4, behind.node.v6)
    with behind.serve(echo), behind.spot.connect(address, TARGET_PORT) as connection:
        assert roundtrip(connection, b"me again") == b"me again"


def test_ten_thousand_connections_from_one_client(shop: Shop, behind: Behind) -> None:
    """Each carries a word there and back and ends in order, in all families; nothing of them stays."""
    nodes = {shop.mesh.a, behind.node}
    with behind.serve(echo), shop.dial(behind) as connection:
        assert roundtrip(connection, b"warm") == b"warm"
    log = shop.mesh.place.logs / f"churn-{behind.name}.log"
    server = behind.spot.spawn("python3", HERE / "churn.py", "serve", str(TARGET_PORT), log=log)
    try:
        eventually(lambda: "listening" in log.read_text(), within=30)
        before = {node: node.descriptors() for node in nodes}
        addresses = [behind.address(family) for family in Family]
        done = shop.client.run(
            "python3", HERE / "churn.py", "dial", str(PORT), str(MANY), str(AT_ONCE), *addresses, timeout=GUARD_SECONDS
        )
        assert done.stdout.decode().split() == [str(MANY)], done.stderr.decode()
    finally:
        server.terminate()
        server.wait(10)
    for node in nodes:
        eventually(lambda n=node: n.descriptors() <= before[n] + 4, what="its sockets are closed")  # type: ignore[misc]
