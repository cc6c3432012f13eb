"""Plaintext from outside the mesh to a workload's port: STRICT, PERMISSIVE, DISABLE, on one node and from another."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.netns.conftest import MakeShop
from tests.netns.lab import Mesh, eventually
from tests.netns.reading import debug
from tests.netns.resources import ROOT_NAMESPACE, from_principal, peer_authentication, policy, workload
from tests.netns.servers import Server, echo, read_all, roundtrip
from tests.netns.shop import TARGET_PORT, Behind, Family, Shop
from tests.netns.spot import Spot
from tests.netns.test_policy import admitted

AT_ONCE = 2.0
INBOUND = 15006


def direct(behind: Behind, family: Family, source: Spot, port: int = TARGET_PORT) -> socket.socket:
    """A connection to the workload's own port, past the mesh."""
    return source.connect(family.form(behind.node.v4, behind.node.v6), port)


def answered(behind: Behind, family: Family, source: Spot, port: int = TARGET_PORT) -> bool:
    """Whether plaintext is carried; False: reset by the agent. ConnectionRefusedError: refused by the kernel."""
    try:
        with direct(behind, family, source, port) as connection:
            return roundtrip(connection, b"plaintext") == b"plaintext"
    except ConnectionResetError:
        return False


def refused(behind: Behind, family: Family, source: Spot, port: int = TARGET_PORT) -> bool:
    """Whether the kernel refuses the connection at once."""
    try:
        direct(behind, family, source, port).close()
    except ConnectionRefusedError:
        return True
    return False


def outsiders(shop: Shop) -> tuple[Spot, Spot]:
    """Programs that are in no workload, on each node."""
    return shop.mesh.a.outside, shop.mesh.b.outside


@contextlib.contextmanager
def met(shop: Shop, behind: Behind, *resources: dict[str, Any], mode: str) -> Iterator[None]:
    """With these resources, once the node of the workload meets plaintext to it so."""

    def in_force(wanted: str) -> bool:
        found = [item for item in debug(behind.node.outside, "/debug/workloads") if item["name"] == behind.name]
        return bool(found and found[0]["plaintext"][str(TARGET_PORT)] == wanted)

    with shop.mesh.applied(*resources):
        eventually(lambda: in_force(mode), what=f"{behind.name} is {mode}")
        yield
    eventually(lambda: in_force("PERMISSIVE"), what=f"{behind.name} is as before")


STRICT = peer_authentication("strict", "STRICT")


@pytest.mark.parametrize("scope", ["mesh", "namespace", "workload", "port"])
def test_strict_refuses_plaintext_and_serves_the_mesh(shop: Shop, behind: Behind, scope: str) -> None:
    written = {
        "mesh": peer_authentication("strict", "STRICT", namespace=ROOT_NAMESPACE),
        "namespace": STRICT,
        "workload": peer_authentication("strict", "STRICT", app=behind.name),
        "port": peer_authentication("strict", "DISABLE", app=behind.name, ports={TARGET_PORT: "STRICT"}),
    }[scope]
    with behind.serve(echo), met(shop, behind, written, mode="STRICT"):
        for family in Family:
            for outside in outsiders(shop):
                eventually(lambda o=outside, f=family: refused(behind, f, o))  # type: ignore[misc]
            assert admitted(shop, behind, shop.client, family)


def test_strict_holds_on_addresses_that_the_mesh_does_not_know(shop: Shop, behind: Behind) -> None:
    with behind.serve(echo), met(shop, behind, STRICT, mode="STRICT"):
        eventually(lambda: refused(behind, Family.V4, behind.node.outside))
        for loopback in ("127.0.0.1", "::1", "127.0.0.9", "::ffff:127.0.0.1"):
            with pytest.raises(ConnectionRefusedError):
                behind.node.outside.connect(loopback, TARGET_PORT)


def test_permissive_lets_plaintext_in_and_says_so(shop: Shop, behind: Behind, family: Family) -> None:
    since, opened = behind.node.access_position(), opened_in_plaintext(behind)
    with behind.spot.listen(TARGET_PORT) as listener:
        for node in shop.mesh.nodes:
            with direct(behind, family, node.outside) as client:
                connection, told = listener.accept()
                with connection:
                    name = client.getsockname()
                    shown = told[0].removeprefix("::ffff:"), told[1]
                    assert shown == (name[0].removeprefix("::ffff:"), name[1]), "the server sees the client"
                    client.sendall(b"x")
                    client.shutdown(socket.SHUT_WR)
                    assert read_all(connection) == b"x"
    lines = eventually(lambda: found(behind, since) if len(found(behind, since)) == 2 else None)
    assert all(line["direction"] == "inbound" and line["bytes_sent"] == "1" for line in lines)
    assert opened_in_plaintext(behind) == opened + 2


def opened_in_plaintext(behind: Behind) -> float:
    """How many connections of nobody the mesh knows were counted as plaintext."""
    return sum(
        sample.value
        for sample in behind.node.metrics()
        if sample.name == "istio_tcp_connections_opened_total"
        and sample.labels["destination_workload"] == behind.name
        and sample.labels["source_workload"] == "unknown"
        and sample.labels["reporter"] == "destination"
        and sample.labels["connection_security_policy"] == "none"
    )


def found(behind: Behind, since: int) -> list[dict[str, str]]:
    """What was logged of plaintext connections."""
    return behind.node.access(since=since, dst_workload=behind.name, src_identity="-", reason="ok")


@pytest.mark.parametrize(
    ("action", "source", "lets_in"),
    [
        pytest.param("ALLOW", {"principals": ["*"]}, False, id="allow-the-mesh"),
        pytest.param("DENY", {"notPrincipals": ["*"]}, False, id="deny-what-is-not-the-mesh"),
        pytest.param("ALLOW", {"ipBlocks": ["10.77.0.2", "fd77::2"]}, True, id="allow-its-address"),
        pytest.param("ALLOW", {"ipBlocks": ["10.77.0.1", "fd77::1"]}, False, id="allow-another-address"),
        pytest.param("DENY", {"ipBlocks": ["10.77.0.2", "fd77::2"]}, False, id="deny-its-address"),
        pytest.param("DENY", {"principals": ["*"]}, True, id="principals-never-match"),
    ],
)
def test_policy_decides_about_plaintext(
    shop: Shop, behind: Behind, action: str, source: dict[str, list[str]], lets_in: bool
) -> None:
    """The client is a program of the second node."""
    outside = shop.mesh.b.outside
    rule = policy("about", action, app=behind.name, rules=[{"from": [{"source": source}]}])
    marker = policy("marker", "DENY", app=behind.name, rules=[from_principal("other")])
    with behind.serve(echo), shop.mesh.applied(rule, marker):
        eventually(lambda: not admitted(shop, behind, shop.other))
        assert [answered(behind, family, outside) for family in Family] == [lets_in] * 3


def test_a_policy_change_resets_open_plaintext(shop: Shop, behind: Behind, family: Family) -> None:
    with behind.serve(echo), direct(behind, family, shop.mesh.b.outside) as connection:
        assert roundtrip(connection, b"hello") == b"hello"
        with shop.mesh.applied(policy("mesh-only", "ALLOW", app=behind.name, rules=[{"from": [EVERY_PRINCIPAL]}])):
            connection.settimeout(AT_ONCE)
            with pytest.raises(ConnectionResetError):
                connection.recv(1)


EVERY_PRINCIPAL = {"source": {"principals": ["*"]}}


def test_becoming_strict_resets_open_plaintext(shop: Shop, behind: Behind, family: Family) -> None:
    with behind.serve(echo), direct(behind, family, shop.mesh.b.outside) as connection:
        assert roundtrip(connection, b"hello") == b"hello"
        with met(shop, behind, STRICT, mode="STRICT"):
            connection.settimeout(AT_ONCE)
            with pytest.raises(ConnectionResetError):
                connection.recv(1)


def test_disable_is_untouched(shop: Shop, behind: Behind, family: Family) -> None:
    """Not seen by the agent at all; the rest of the workload is STRICT."""
    disabled = peer_authentication("own", "STRICT", app=behind.name, ports={TARGET_PORT: "DISABLE"})
    since = behind.node.access_position()
    with behind.serve(echo), met(shop, behind, disabled, mode="DISABLE"):
        for outside in outsiders(shop):
            assert answered(behind, family, outside)
        assert admitted(shop, behind, shop.client, family)
    assert not behind.node.access(since=since, dst_workload=behind.name, src_identity="-")


def test_ports_outside_the_mesh_are_untouched(shop: Shop, behind: Behind, family: Family) -> None:
    with met(shop, behind, STRICT, mode="STRICT"), Server(behind.spot.listen(TARGET_PORT + 1), echo):
        for outside in outsiders(shop):
            assert answered(behind, family, outside, TARGET_PORT + 1)


def test_a_workload_reaches_itself_and_not_its_neighbour(shop: Shop, family: Family) -> None:
    local = shop.local
    loopback = family.form("127.0.0.1", "::1")
    with local.serve(echo), met(shop, local, STRICT, mode="STRICT"):
        eventually(lambda: refused(local, family, shop.mesh.a.outside))
        with local.spot.connect(loopback, TARGET_PORT) as own:
            assert roundtrip(own, b"me") == b"me"
        with pytest.raises(ConnectionRefusedError):
            shop.client.connect(loopback, TARGET_PORT)


def test_probes_of_the_node_get_in_where_the_workload_says_so(shop: Shop, family: Family) -> None:
    """On one node only: those of another node, and workloads that go past the mesh, are plaintext as any other."""
    mesh = shop.mesh
    spot = mesh.spot_of(mesh.a, "probed")
    probed = workload("probed", mesh.a.name, ports=[8070], probePorts=[8070])
    with mesh.applied(probed, STRICT), spot.listen(8070) as listener:
        mesh.wait_enrolled(spot)
        address = family.form(mesh.a.v4, mesh.a.v6)
        eventually(lambda: not reached(mesh.b.outside, address, 8070), what="STRICT is in force")
        for ip in (address, family.form("127.0.0.1", "::1")):
            mesh.a.outside.connect(ip, 8070).close()
            listener.accept()[0].close()
            if ip != address:  # that one is the mesh's, and captured
                assert not reached(shop.client, ip, 8070)


def reached(spot: Spot, address: str, port: int) -> bool:
    """Whether somebody listens, for this one."""
    try:
        spot.connect(address, port).close()
    except ConnectionRefusedError:
        return False
    return True


def test_the_port_for_plaintext_serves_nobody_who_comes_to_it(shop: Shop, family: Family) -> None:
    node = shop.mesh.a
    since = node.access_position()
    with (
        pytest.raises(ConnectionResetError),  # by the first read, or already by connect()
        node.outside.connect(family.form("127.0.0.1", "::1"), INBOUND) as connection,
    ):
        connection.settimeout(AT_ONCE)
        connection.recv(1)
    eventually(lambda: node.access(since=since, reason="not-captured"))


def test_without_its_agent_a_workload_meets_nobody(make_shop: MakeShop) -> None:
    """STRICT goes on refusing, PERMISSIVE refuses what nobody can decide about, DISABLE goes on; all comes back."""
    shop = make_shop()
    mesh: Mesh = shop.mesh
    free = mesh.spot_of(mesh.b, "free")
    mesh.apply(
        workload("free", mesh.b.name, ports=[8071]),
        peer_authentication("free", "DISABLE", app="free"),
        peer_authentication("own", "UNSET", app="server", ports={8072: "STRICT"}),
        workload("server", mesh.b.name, ports=[8072], labels={"tier": "back"}),
    )
    mesh.wait_enrolled(free)
    outside, address = mesh.a.outside, mesh.b.v4

    def reach() -> list[bool]:
        return [reached(outside, address, port) for port in (TARGET_PORT, 8072, 8071)]

    with (
        shop.server.serve(echo),
        shop.server.spot.listen(8072),
        free.listen(8071),
    ):
        eventually(lambda: reach() == [True, False, True], what="all modes are in force")
        mesh.b.stop_agent(signal.SIGKILL)
        assert reach() == [False, False, True]
        mesh.b.start_agent()
        mesh.b.wait_ready()
        eventually(lambda: reach() == [True, False, True], what="as before")
        assert answered(shop.server, Family.V6, outside)
        mesh.b.stop_agent()
        mesh.b.outside.run("nodeagent", "unload", env=mesh.b.settings)
        assert reach() == [True, True, True], "whoever unloads takes the guard away"


def test_where_nobody_listens_plaintext_is_reset_and_the_log_says_why(
    shop: Shop, behind: Behind, family: Family
) -> None:
    since = behind.node.access_position()
    with (
        pytest.raises(ConnectionResetError),  # by the first read, or already by connect()
        direct(behind, family, shop.mesh.b.outside) as connection,
    ):
        connection.settimeout(AT_ONCE)
        connection.recv(1)
    eventually(lambda: behind.node.access(since=since, dst_workload=behind.name, reason="connect-refused"))
