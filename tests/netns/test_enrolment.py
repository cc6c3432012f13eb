"""Who is in the mesh, as which workload, from when until when: decided by cgroups and by what control says of them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
import yaml

from tests.netns.lab import BIN, eventually, identity
from tests.netns.resources import service, workload
from tests.netns.servers import Server, echo, read_all, roundtrip
from tests.netns.shop import PORT, TARGET_PORT, Family, Shop
from tests.netns.spot import Spot

PAIR, PAIR_6 = "240.240.1.9", "fd6d:6573:68::109"


@contextlib.contextmanager
def guest(shop: Shop, **spec: object) -> Iterator[None]:
    """A workload for the time of a story."""
    with shop.mesh.applied(workload("guest", shop.mesh.a.name, **spec)):
        yield


def last_source(shop: Shop, connection: socket.socket, since: int) -> dict[str, str]:
    """The access-log line of a connection that has been closed."""
    port = connection.getsockname()[1]
    connection.close()
    lines = eventually(
        lambda: [
            line
            for line in shop.mesh.a.access(since=since, direction="outbound")
            if line["src.addr"].endswith(f":{port}")
        ]
    )
    return lines[-1]


def carried_as(shop: Shop, spot: Spot, family: Family = Family.V4) -> str:
    """The identity with which a connection from the spot arrives."""
    since = shop.mesh.a.access_position()
    with shop.server.serve(echo):
        connection = shop.dial(shop.server, family, source=spot)
        assert roundtrip(connection, b"who am I") == b"who am I"
        return last_source(shop, connection, since)["src.identity"]


def test_a_systemd_unit_by_its_name_wherever_it_is(shop: Shop, family: Family) -> None:
    spot = shop.mesh.a.spot("system.slice/system-guest.slice/guest.service")
    spot.cgroup.mkdir(parents=True, exist_ok=True)
    with guest(shop, selectors={"systemdUnit": "guest.service"}):
        shop.mesh.wait_enrolled(spot)
        assert carried_as(shop, spot, family) == identity("guest")


def test_cgroups_inside_of_a_workload_belong_to_it(shop: Shop, family: Family) -> None:
    """A container's own cgroup below the unit's: from its first moment, nobody has to notice it."""
    inner = shop.mesh.a.spot(f"shop/client/payload/{family.value}")
    assert carried_as(shop, inner, family) == identity("client")


def test_a_cgroup_that_appears_after_its_workload_was_declared(shop: Shop) -> None:
    with guest(shop):
        spot = shop.mesh.a.spot("shop/guest")
        with contextlib.suppress(OSError):
            # makes the cgroup; whether its first connection is taken depends on when the agent looks
            spot.connect(shop.server.v4, PORT).close()
        shop.mesh.wait_enrolled(spot)
        assert carried_as(shop, spot) == identity("guest")


def test_a_program_that_waits_is_in_the_mesh_from_its_first_connection(shop: Shop) -> None:
    node = shop.mesh.a
    wait = (BIN / "nodeagent", "wait", "--timeout")
    with shop.mesh.applied(workload("late", node.name)):
        spot = node.spot("shop/late")
        for cgroup in (spot, node.spot("shop/late/inner")):
            waited = cgroup.run(*wait, "10", env=node.settings)
            assert waited.returncode == 0, waited.stderr
        assert carried_as(shop, spot) == identity("late")
    outside = node.outside.run(*wait, "0", env=node.settings)
    assert outside.returncode == 1
    assert b"no workload of this node selects the cgroup" in outside.stderr


def test_a_neighbour_with_a_longer_name_is_somebody_else(shop: Shop) -> None:
    """/shop/client selects neither /shop/client2 nor /shop."""
    for cgroup in ("shop/client2", "shop"):
        spot = shop.mesh.a.spot(f"{cgroup}/leaf") if cgroup == "shop" else shop.mesh.a.spot(cgroup)
        with pytest.raises(OSError, match="unreachable"):
            spot.connect(shop.server.v4, PORT)


def test_a_workload_that_is_taken_out_loses_what_is_open(shop: Shop, family: Family) -> None:
    spot = shop.mesh.spot_of(shop.mesh.a, "guest")
    with shop.server.serve(echo):
        with guest(shop):
            shop.mesh.wait_enrolled(spot)
            connection = shop.dial(shop.server, family, source=spot)
            assert roundtrip(connection, b"in") == b"in"
        with connection, pytest.raises(ConnectionResetError):
            read_all(connection)

        def untouched() -> bool:
            try:
                shop.dial(shop.server, family, source=spot).close()
            except OSError as error:
                return "unreachable" in str(error)
            return False

        eventually(untouched, what="its connections are not taken any more")


def test_a_service_account_changed_live(shop: Shop) -> None:
    spot = shop.mesh.spot_of(shop.mesh.a, "guest")
    with guest(shop, account="first"):
        shop.mesh.wait_enrolled(spot)
        assert carried_as(shop, spot) == identity("first")
        shop.mesh.apply(workload("guest", shop.mesh.a.name, account="second"))
        shop.mesh.wait_enrolled(spot)
        eventually(lambda: carried_as(shop, spot) == identity("second"), what="carried by its new name")


def test_connections_are_spread_over_the_endpoints_of_a_service(shop: Shop, family: Family) -> None:
    """One on each node; the client cannot tell which it gets."""
    pair = service("pair", {PORT: TARGET_PORT}, addresses=(PAIR, PAIR_6), selector={"tier": "back"})
    with contextlib.ExitStack() as stack:
        stack.enter_context(shop.mesh.applied(pair))
        servers: list[Server] = [stack.enter_context(each.serve(echo)) for each in (shop.local, shop.server)]
        address = family.form(PAIR, PAIR_6)
        eventually(lambda: _works(shop, address), what="the new service is known")
        before = [len(server.connections) for server in servers]
        for _ in range(40):
            assert _works(shop, address)
        counts = [len(server.connections) - count for server, count in zip(servers, before, strict=True)]
    assert sum(counts) == 40 and min(counts) >= 4, counts


def _works(shop: Shop, address: str) -> bool:
    with shop.client.connect(address, PORT) as connection:
        return roundtrip(connection, b"pair") == b"pair"


def test_a_service_that_is_deleted_is_nobody(shop: Shop, family: Family) -> None:
    """Its address is an ordinary one again (here: without a route)."""
    pair = service("pair", {PORT: TARGET_PORT}, addresses=(PAIR, PAIR_6), selector={"tier": "back"})
    address = family.form(PAIR, PAIR_6)
    with shop.local.serve(echo), shop.server.serve(echo):
        with shop.mesh.applied(pair):
            eventually(lambda: _works(shop, address))

        def unknown() -> bool:
            try:
                shop.client.connect(address, PORT).close()
            except OSError as error:
                return "unreachable" in str(error)
            return False

        eventually(unknown, what="not a mesh destination any more")


def test_a_service_without_endpoints_is_a_reset_with_a_reason(shop: Shop, family: Family) -> None:
    nobody = service("pair", {PORT: TARGET_PORT}, addresses=(PAIR, PAIR_6), selector={"app": "nobody"})
    with shop.mesh.applied(nobody):

        def reset() -> bool:
            try:
                with shop.client.connect(family.form(PAIR, PAIR_6), PORT) as connection:
                    read_all(connection)
            except ConnectionResetError:
                return True
            return False

        eventually(reset, what="reset")
        eventually(lambda: shop.mesh.a.access(reason="no-endpoint"), what="a line that says so")


def test_a_port_that_a_service_does_not_have(shop: Shop, family: Family) -> None:
    """The address is the mesh's, the port is nobody's: refused or unreachable at once, never a hang."""
    with pytest.raises(OSError) as refused, shop.client.connect(shop.server.address(family), 81) as connection:
        connection.settimeout(3)
        read_all(connection)
    assert not isinstance(refused.value, TimeoutError)


def test_two_workloads_that_claim_one_address_and_port(shop: Shop, family: Family) -> None:
    """Control refuses the second and names both; whoever was there first goes on."""
    a = shop.mesh.a
    address, ports = family.form("10.77.9.1", "fd77::9:1"), [9001]
    one = workload("first", a.name, addresses=[address], ports=ports)
    other = workload("second", a.name, addresses=[family.form("10.77.9.1", "fd77::9:1").upper()], ports=ports)
    with shop.mesh.applied(one):
        file = shop.mesh.place.directory / "clash.yaml"
        file.write_text(yaml.safe_dump(other))
        refused = shop.mesh.meshctl("apply", "-f", file, check=False)
        assert refused.returncode != 0
        assert "shop/first" in refused.stderr and "shop/second" in refused.stderr and "9001" in refused.stderr
        assert shop.mesh.get("workload", "first")["spec"]["ports"] == ports
        assert shop.mesh.meshctl("get", "workload", "second", "-n", "shop", check=False).returncode != 0


def test_two_workloads_that_select_one_cgroup(shop: Shop, family: Family) -> None:
    """By the same words control refuses it; by other words it shows on the node. There the cgroup is nobody's: refused,
    not let past, and both are named; taken again when one of them goes.
    """
    a = shop.mesh.a
    unit = f"both-{family.name.lower()}.service"
    spot = a.spot(f"system.slice/{unit}")
    spot.cgroup.mkdir(parents=True, exist_ok=True)
    by_path, by_unit = {"cgroupPath": f"/system.slice/{unit}"}, {"systemdUnit": unit}
    with shop.mesh.applied(workload("one", a.name, selectors=by_path)):
        shop.mesh.wait_enrolled(spot)
        file = shop.mesh.place.directory / "clash.yaml"
        file.write_text(yaml.safe_dump(workload("two", a.name, selectors=by_path)))
        refused = shop.mesh.meshctl("apply", "-f", file, check=False)
        assert refused.returncode != 0 and "shop/one" in refused.stderr and "shop/two" in refused.stderr
        with shop.mesh.applied(workload("two", a.name, selectors=by_unit)):

            def told() -> str:
                return next(row for row in a.nodeagent("workloads", "-o", "json") if row["name"] == "two")["problems"][
                    0
                ]

            problem = eventually(told, what="it is told")
            assert "shop/one" in problem and "shop/two" in problem and "disjoint" in problem
            direct = family.form(shop.mesh.b.v4, shop.mesh.b.v6)
            for address, port in ((shop.server.address(family), PORT), (direct, TARGET_PORT)):
                with pytest.raises(ConnectionResetError), spot.connect(address, port) as connection:
                    read_all(connection)
        eventually(lambda: carried_as(shop, spot, family) == identity("one"), what="one of them is its own")
