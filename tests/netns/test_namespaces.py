"""Workloads in network namespaces of their own: they talk to each other and to those of the host, and do not notice."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator

import pytest

from tests.netns import resources
from tests.netns.lab import eventually, identity
from tests.netns.pods import Pod
from tests.netns.resources import from_principal, peer_authentication, policy
from tests.netns.servers import echo, greeter, roundtrip
from tests.netns.shop import PORT, TARGET_PORT, Family, Shop
from tests.netns.town import Town, place_of, wait_served
from tests.netns.town import town as make_town
from tests.netns.tunnel import Tunnel, server_certificate, spiffe_ids, stolen_authority
from tests.support import pki


@pytest.fixture(scope="module")
def town(shop: Shop) -> Iterator[Town]:
    with make_town(shop) as made:
        yield made


@pytest.fixture(params=["near", "far"], ids=["same-node", "cross-node"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_pod_to_pod(town: Town, name: str, family: Family) -> None:
    node = town.pod(name).node
    since = node.access_position()
    with town.serve(name, echo), town.dial(town.walker.spot, name, family) as connection:
        assert roundtrip(connection, b"from a namespace") == b"from a namespace"
    (line,) = eventually(lambda: node.access(since=since, direction="inbound", dst_workload=name), what="the log line")
    assert (line["src.workload"], line["src.identity"]) == ("walker", identity("walker"))
    assert line["dst.identity"] == identity(name)


def test_a_megabyte_both_ways(town: Town, name: str, family: Family) -> None:
    data = os.urandom(1_000_000)
    with town.serve(name, echo), town.dial(town.walker.spot, name, family) as connection:
        assert roundtrip(connection, data) == data


def test_pod_to_host_workload(town: Town, family: Family) -> None:
    """To one of its own node and to one of the other."""
    for behind in (town.shop.local, town.shop.server):
        with behind.serve(echo), town.walker.spot.connect(behind.address(family), PORT) as connection:
            assert roundtrip(connection, b"out") == b"out"


def test_host_workload_to_pod(town: Town, name: str, family: Family) -> None:
    with town.serve(name, greeter), town.dial(town.shop.client, name, family) as connection:
        assert connection.recv(100) == b"220 ready\r\n"


def test_a_pod_is_reached_by_its_own_address_too(town: Town, name: str, family: Family) -> None:
    pod = town.pod(name)
    with town.serve(name, echo), town.walker.spot.connect(family.form(pod.v4, pod.v6), TARGET_PORT) as connection:
        assert roundtrip(connection, b"by address") == b"by address"


def test_the_server_sees_the_client_and_the_client_the_service(town: Town, name: str, family: Family) -> None:
    seen: list[str] = []

    def look(connection: socket.socket) -> None:
        seen.append(connection.getpeername()[0].removeprefix("::ffff:"))
        echo(connection)

    with town.serve(name, look), town.dial(town.walker.spot, name, family) as connection:
        roundtrip(connection, b"x")
    assert seen == [town.walker.v6 if family is Family.V6 else town.walker.v4]


def test_policy_denies_by_identity(town: Town, name: str, family: Family) -> None:
    """The host's client is let in, the pod is not."""
    allow = policy("only-client", "ALLOW", app=name, rules=[from_principal("client")])
    with town.mesh.applied(allow), town.serve(name, echo):

        def refused() -> bool:
            with town.dial(town.walker.spot, name, family) as connection:
                try:
                    return roundtrip(connection, b"x") == b""
                except ConnectionError:
                    return True

        eventually(refused, what="the pod is refused")
        with town.dial(town.shop.client, name, family) as connection:
            assert roundtrip(connection, b"welcome") == b"welcome"


def test_plaintext_from_outside_the_mesh_is_met_in_there_too(town: Town, family: Family) -> None:
    """A client of no workload, on the node: let in and recorded as such, or refused where STRICT says so."""
    near, outside = town.near, town.mesh.a.outside
    address = family.form(near.v4, near.v6)
    since = town.mesh.a.access_position()
    with town.serve("near", echo):
        with outside.connect(address, TARGET_PORT) as connection:
            assert roundtrip(connection, b"plain") == b"plain"
        found = eventually(lambda: town.mesh.a.access(since=since, dst_workload="near"), what="the log line")
        assert {(line["src.identity"], line["reason"]) for line in found} == {("-", "ok")}
        with town.mesh.applied(peer_authentication("strict-near", "STRICT", app="near")):

            def refused() -> bool:
                with pytest.raises(ConnectionRefusedError):
                    outside.connect(address, TARGET_PORT).close()
                return True

            eventually(refused, what="STRICT is in force in the namespace")
            with town.dial(town.walker.spot, "near", family) as connection:
                assert roundtrip(connection, b"mesh") == b"mesh"


def test_a_foreign_peer_reaches_a_pod_at_its_own_address(town: Town, family: Family) -> None:
    """It knows nothing of nodes and sends no server name: the address alone says who is meant."""
    near = town.near
    leaf = pki.make_svid(stolen_authority(town.mesh), identity("client"))
    ip = near.v6 if family is Family.V6 else near.v4
    authority = f"[{ip}]:{TARGET_PORT}" if ":" in ip else f"{ip}:{TARGET_PORT}"
    with town.serve("near", echo):
        assert spiffe_ids(server_certificate(town.mesh.a.outside, family.form(near.v4, near.v6), None)) == [
            identity("near")
        ]
        with Tunnel(town.mesh.a.outside, family.form(near.v4, near.v6), leaf) as tunnel:
            assert tunnel.connect(authority) == 200
            tunnel.send(b"from elsewhere")
            assert tunnel.receive() == b"from elsewhere"


def test_whoever_is_not_enrolled_is_left_alone_in_there(town: Town, family: Family) -> None:
    """A process of no workload, in the namespace of one: its connections are its own business."""
    with socket_pair(town, family) as (client, server):
        client.sendall(b"plain")
        assert server.recv(100) == b"plain"


@contextlib.contextmanager
def socket_pair(town: Town, family: Family) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A direct connection from the pod's namespace to the node's end of its cable."""
    with (
        town.mesh.a.outside.listen(9999) as listener,
        town.walker.outside.connect(family.form(*town.walker.gate), 9999) as client,
    ):
        server, _ = listener.accept()
        with server:
            yield client, server


def test_the_operator_sees_where_each_lives(town: Town) -> None:
    (place,) = place_of(town.mesh.a, "walker")
    assert (place["inode"], place["own"], place["served"], place["problem"]) == (town.walker.inode, False, True, "")
    assert [place["own"] for place in place_of(town.mesh.a, "client")] in ([True], [])
    table = town.mesh.a.nodeagent("workloads")
    (line,) = [line for line in table.splitlines() if " walker " in line]
    assert str(town.walker.inode) in line.split()
    assert "network namespaces besides the node's: 2, of which 2 are served" in town.mesh.a.nodeagent("status")


WANDERER = """
import ctypes, socket, sys, threading, time
place, address = sys.argv[1:]
def wander():
    with open(place) as namespace:
        assert ctypes.CDLL(None).setns(namespace.fileno(), 0x40000000) == 0
    deadline = time.monotonic() + 15
    while True:
        try:
            connection = socket.create_connection((address, 80), 5)
            break
        except PermissionError:
            assert time.monotonic() < deadline, "refused for ever"
            time.sleep(0.02)
    connection.sendall(b"from another thread")
    print(connection.recv(100).decode(), flush=True)
thread = threading.Thread(target=wander)
thread.start()
thread.join()
"""


def test_a_thread_that_went_into_another_namespace_on_its_own(shop: Shop, family: Family) -> None:
    """Refused until the agent has noticed, which the refusal makes it do; then it is served as who its process is."""
    a = shop.mesh.a
    since = a.access_position()
    with Pod(shop.mesh, a, "elsewhere", 9) as pod, shop.server.serve(echo):
        place = pod.site.netns_path
        done = shop.client.run(sys.executable, "-c", WANDERER, place, shop.server.address(family))
        assert done.stdout == b"from another thread\n", done.stderr.decode()
        (line,) = eventually(
            lambda: a.access(since=since, direction="outbound", src_workload="client"), what="the line"
        )
        assert line["src.identity"] == identity("client")


def test_threads_that_went_elsewhere_do_not_hold_a_namespace(shop: Shop) -> None:
    """Neither this one's nor another's: when they end it is let go."""
    a = shop.mesh.a
    with Pod(shop.mesh, a, "elsewhere", 9) as pod, shop.server.serve(echo):
        done = shop.client.run(sys.executable, "-c", WANDERER, pod.site.netns_path, shop.server.v4)
        assert done.returncode == 0, done.stderr.decode()
        inode = pod.inode
        eventually(
            lambda: inode not in [p["inode"] for p in place_of(a, "client")], within=15, what="the namespace is let go"
        )


def test_a_namespace_without_ipv6(shop: Shop, family: Family) -> None:
    """As docker makes them. Its programs reach IPv6 addresses of the mesh all the same: it is the agent that goes."""
    a = shop.mesh.a
    with Pod(shop.mesh, a, "narrow", 10) as pod:
        pod.outside.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.lo.disable_ipv6=1")
        with shop.mesh.applied(resources.workload("narrow", a.name, addresses=[pod.v4])), shop.server.serve(echo):
            wait_served(pod)
            with shop.dial(shop.server, family, source=pod.spot) as connection:
                assert roundtrip(connection, b"narrow") == b"narrow"
                assert connection.getpeername()[:2] == (shop.server.address(family), PORT)
