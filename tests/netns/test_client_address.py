"""Servers see their real client, not the agent: in accept() and in getpeername(), whatever way the connection came."""

from __future__ import annotations

import socket

import pytest

from tests.netns.lab import eventually
from tests.netns.resources import service, workload
from tests.netns.servers import read_all
from tests.netns.shop import TARGET_PORT, Behind, Family, Shop
from tests.netns.spliced import spliced
from tests.netns.spot import Spot


def seen(shop: Shop, behind: Behind, family: Family, listener: socket.socket, source: Spot | None = None) -> str:
    """The client's address as the server is told it, twice; its port is the client's own."""
    with shop.dial(behind, family, source=source) as client:
        connection, told = listener.accept()
        with connection:
            assert told[:2] == connection.getpeername()[:2]
            assert told[1] == client.getsockname()[1]
            return str(told[0])


def test_the_server_sees_the_client(shop: Shop, behind: Behind, family: Family) -> None:
    with behind.spot.listen(TARGET_PORT) as listener:
        a = shop.mesh.a
        assert seen(shop, behind, family, listener) == (a.v6 if family is Family.V6 else f"::ffff:{a.v4}")


def test_a_server_of_one_family_sees_the_client(shop: Shop, behind: Behind) -> None:
    with behind.spot.listen(TARGET_PORT, address="0.0.0.0") as listener:
        assert seen(shop, behind, Family.V4, listener) == shop.mesh.a.v4
        assert seen(shop, behind, Family.MAPPED, listener) == shop.mesh.a.v4
    with behind.spot.listen(TARGET_PORT, address=behind.node.v6) as listener:
        assert seen(shop, behind, Family.V6, listener) == shop.mesh.a.v6


def test_a_client_of_the_other_node_is_seen_from_both(shop: Shop, family: Family) -> None:
    """The same server, a client on each node: each with its own address."""
    with shop.server.spot.listen(TARGET_PORT) as listener:
        for node, spot in ((shop.mesh.a, shop.client), (shop.mesh.b, shop.remote)):
            wanted = node.v6 if family is Family.V6 else f"::ffff:{node.v4}"
            assert seen(shop, shop.server, family, listener, spot) == wanted


@pytest.mark.splice
def test_a_spliced_connection_shows_its_client(shop: Shop, family: Family) -> None:
    with spliced(shop, family) as flow:
        assert flow.server.getpeername()[1] == flow.client.getsockname()[1]
        a = shop.mesh.a
        assert flow.server.getpeername()[0] == (a.v6 if family is Family.V6 else f"::ffff:{a.v4}")
        assert flow.short_cut() == 2 * len(b"word"), "and goes on being spliced"


def test_an_ipv4_server_is_not_shown_an_ipv6_client(shop: Shop) -> None:
    """What its socket cannot hold it is not told: it sees the agent, as before."""
    mesh = shop.mesh
    spot = mesh.spot_of(mesh.b, "old")
    with (
        mesh.applied(
            workload("old", mesh.b.name, appAddress="127.0.0.1", ports=[8090]),
            service("old", {80: 8090}, addresses=("fd6d:6573:68::109",)),
        ),
        spot.listen(8090, address="127.0.0.1") as listener,
    ):
        mesh.wait_enrolled(spot)

        def connected() -> socket.socket:
            return shop.client.connect("fd6d:6573:68::109", 80)

        with eventually(connected, what="the service is known"):
            connection, told = listener.accept()
            with connection:
                assert told[0] == connection.getpeername()[0] == "127.0.0.1"


def test_whoever_is_not_in_the_mesh_is_seen_as_before(shop: Shop, behind: Behind) -> None:
    outside = shop.mesh.b.outside
    with behind.spot.listen(TARGET_PORT) as listener, outside.connect(behind.node.v4, TARGET_PORT) as client:
        name = client.getsockname()
        connection, told = listener.accept()
        with connection:
            assert told[:2] == (f"::ffff:{name[0]}", name[1])


def test_many_clients_are_told_apart(shop: Shop, behind: Behind, family: Family) -> None:
    def tell(connection: socket.socket) -> None:
        connection.sendall(str(connection.getpeername()[1]).encode())
        connection.shutdown(socket.SHUT_WR)

    with behind.serve(tell):
        for _ in range(3):
            clients = [shop.dial(behind, family) for _ in range(20)]
            for client in clients:
                with client:
                    assert read_all(client) == str(client.getsockname()[1]).encode()
