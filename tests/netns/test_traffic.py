"""What applications notice of the mesh while all is well: nothing."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import threading

import pytest

from tests.netns.lab import eventually
from tests.netns.servers import (
    echo,
    greeter,
    http_get,
    http_hello,
    read_all,
    read_exactly,
    reset,
    reset_after_first_bytes,
    roundtrip,
)
from tests.netns.shop import PORT, TARGET_PORT, Behind, Family, Shop

BULK = 50 * 1000 * 1000


def test_http(shop: Shop, behind: Behind, family: Family) -> None:
    with behind.serve(http_hello), shop.dial(behind, family) as connection:
        for number in range(20):
            assert http_get(connection, f"/{number}") == (200, f"you asked: GET /{number} HTTP/1.1".encode())


def test_the_application_sees_the_peer_it_dialled(shop: Shop, behind: Behind, family: Family) -> None:
    """getpeername() names the service, although the socket is connected to the agent."""
    with behind.serve(echo):
        ask = f"import socket, sys; print(socket.create_connection((sys.argv[1], {PORT})).getpeername()[:2])"
        answer = shop.client.run("python3", "-c", ask, behind.address(family))
    assert answer.stdout.decode().strip() == repr((behind.address(family), PORT)), answer.stderr.decode()


def test_a_workload_is_reached_by_its_own_address_too(shop: Shop, behind: Behind, family: Family) -> None:
    address = family.form(behind.node.v4, behind.node.v6)
    with behind.serve(echo), shop.client.connect(address, TARGET_PORT) as connection:
        assert roundtrip(connection, b"by address") == b"by address"
        port = connection.getsockname()[1]
    eventually(
        lambda: [line for line in shop.mesh.a.access(direction="outbound") if line["src.addr"].endswith(f":{port}")],
        what="the connection was taken by the agent",
    )


def test_50_megabytes_arrive_intact_both_ways(shop: Shop, behind: Behind, family: Family) -> None:
    data = os.urandom(1_000_000) * (BULK // 1_000_000)
    with behind.serve(echo), shop.dial(behind, family) as connection:
        answer = roundtrip(connection, data)
    assert hashlib.sha256(answer).digest() == hashlib.sha256(data).digest()


def test_client_ends_first_and_still_reads_the_answer(shop: Shop, behind: Behind, family: Family) -> None:
    def count(connection: socket.socket) -> None:
        received = read_all(connection)
        connection.sendall(b"%d bytes" % len(received))
        connection.close()

    with behind.serve(count), shop.dial(behind, family) as connection:
        connection.sendall(b"x" * 300_000)
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection) == b"300000 bytes"


def test_server_ends_first_and_still_reads_the_rest(shop: Shop, behind: Behind, family: Family) -> None:
    received: list[bytes] = []

    def answer_then_listen(connection: socket.socket) -> None:
        connection.sendall(b"that is all from me")
        connection.shutdown(socket.SHUT_WR)
        received.append(read_all(connection))

    with behind.serve(answer_then_listen), shop.dial(behind, family) as connection:
        assert read_all(connection) == b"that is all from me"
        connection.sendall(b"y" * 300_000)
        connection.shutdown(socket.SHUT_WR)
        eventually(lambda: received, what="the server reads to the end")
    assert received == [b"y" * 300_000]


def test_server_speaks_first(shop: Shop, behind: Behind, family: Family) -> None:
    with behind.serve(greeter), shop.dial(behind, family) as connection:
        connection.settimeout(3)
        assert read_exactly(connection, 11) == b"220 ready\r\n"


def test_nobody_listens(shop: Shop, behind: Behind, family: Family) -> None:
    """Refused upstream is a reset, not an orderly end that looks like an empty answer."""
    with pytest.raises(ConnectionResetError), shop.dial(behind, family) as connection:
        read_all(connection)
    eventually(lambda: shop.mesh.a.access(reason="connect-refused", direction="outbound"), what="a line that says so")


def test_server_resets(shop: Shop, behind: Behind, family: Family) -> None:
    with behind.serve(reset_after_first_bytes), shop.dial(behind, family) as connection:
        connection.sendall(b"please")
        with pytest.raises(ConnectionResetError):
            read_all(connection)


def test_server_resets_at_once(shop: Shop, behind: Behind, family: Family) -> None:
    with behind.serve(reset), pytest.raises(ConnectionResetError), shop.dial(behind, family) as connection:
        read_all(connection)


def test_client_resets(shop: Shop, behind: Behind, family: Family) -> None:
    with behind.serve(lambda connection: bool(read_all(connection)) and None) as server:
        connection = shop.dial(behind, family)
        connection.sendall(b"half a requ")
        eventually(lambda: server.connections)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        eventually(lambda: server.errors, what="the server sees a reset")
        assert isinstance(server.errors[0], ConnectionResetError)


def test_a_hundred_connections_at_once(shop: Shop, behind: Behind) -> None:
    with behind.serve(echo):
        connections = [shop.dial(behind) for _ in range(100)]
        try:
            for number, connection in enumerate(connections):
                connection.sendall(b"%d " % number * 1000)
            for number, connection in enumerate(connections):
                expected = b"%d " % number * 1000
                assert read_exactly(connection, len(expected)) == expected
        finally:
            for connection in connections:
                connection.close()


def test_a_slow_reader_stops_nobody_else(shop: Shop, behind: Behind) -> None:
    """One connection whose client never reads, beside one that works; what piles up is bounded."""
    written = 0
    stuck = threading.Event()

    def pour(connection: socket.socket) -> None:
        nonlocal written
        if connection.recv(1) == b"e":
            return echo(connection)
        connection.settimeout(1)
        try:
            while True:
                written += connection.send(b"z" * 65536)
        except TimeoutError:
            stuck.set()
        return None

    with behind.serve(pour), shop.dial(behind) as slow, shop.dial(behind) as quick:
        slow.sendall(b"p")
        quick.sendall(b"e")
        assert stuck.wait(30), "the sender is never stopped: something buffers without bound"
        assert written < 64 * 1024 * 1024
        assert roundtrip(quick, b"q" * 1_000_000) == b"q" * 1_000_000


def test_both_directions_of_placement(shop: Shop, family: Family) -> None:
    """From the second node to the first: the same as the other way round."""
    with shop.local.serve(echo), shop.dial(shop.local, family, source=shop.remote) as connection:
        assert roundtrip(connection, b"back") == b"back"


def test_a_program_outside_the_mesh_is_not_touched(shop: Shop, family: Family) -> None:
    """It reaches what is there without a mesh, and virtual addresses are nothing to it."""
    listener = shop.mesh.b.outside.listen(9999)
    address = family.form(shop.mesh.b.v4, shop.mesh.b.v6)
    with listener, shop.mesh.a.outside.connect(address, 9999) as connection:
        accepted, peer = listener.accept()
        accepted.close()
        assert peer[1] == connection.getsockname()[1], "somebody stood between"
        assert connection.getpeername()[:2] == (address, 9999)
    with pytest.raises(OSError, match="unreachable"):
        shop.mesh.a.outside.connect(shop.server.address(family), PORT)


def test_an_enrolled_program_reaches_other_places_directly(shop: Shop, family: Family) -> None:
    listener = shop.mesh.b.outside.listen(9999)
    with listener, shop.client.connect(family.form(shop.mesh.b.v4, shop.mesh.b.v6), 9999) as connection:
        accepted, peer = listener.accept()
        accepted.close()
        assert peer[1] == connection.getsockname()[1], "somebody stood between"
