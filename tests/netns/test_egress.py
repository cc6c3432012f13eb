"""Egress policy: workloads reach what the registry names, and are told at once where they may not go."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.netns.conftest import MakeShop
from tests.netns.lab import BIN, Node, eventually
from tests.netns.reading import debug
from tests.netns.resources import ROOT_NAMESPACE, egress_policy, workload
from tests.netns.servers import Server, echo, roundtrip
from tests.netns.shop import Behind, Family, Shop
from tests.netns.spot import Spot
from tests.netns.test_dns import World, ask

PORT = 7070
PROBE = Path(__file__).with_name("leave.py")


class Outside:
    """A server on the second node that is in no mesh."""

    def __init__(self, shop: Shop) -> None:
        self.node = shop.mesh.b
        self.tcp = Server(self.node.outside.listen(PORT), echo)

    def address(self, family: Family) -> str:
        return family.form(self.node.v4, self.node.v6)


@pytest.fixture
def outside(shop: Shop) -> Iterator[Outside]:
    made = Outside(shop)
    with made.tcp:
        yield made


def leave(spot: Spot, way: str, address: str, port: int = PORT) -> str:
    """How a program in the spot fares that wants to get there."""
    done = spot.run("python3", PROBE, way, address, str(port))
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def reaches(spot: Spot, outside: Outside, family: Family) -> bool:
    try:
        with spot.connect(outside.address(family), PORT) as connection:
            return roundtrip(connection, b"out") == b"out"
    except PermissionError:
        return False


def mode_of(node: Node, name: str) -> str:
    (found,) = [item for item in debug(node.outside, "/debug/workloads") if item["name"] == name]
    return str(found["egress"])


@contextlib.contextmanager
def confined(shop: Shop, *policies: dict[str, Any], client: str = "client") -> Iterator[None]:
    with shop.mesh.applied(*policies):
        eventually(lambda: mode_of(shop.mesh.a, client) == "REGISTRY_ONLY", what="the policy arrives")
        yield
    eventually(lambda: mode_of(shop.mesh.a, client) == "ALLOW_ANY", what="the policy is gone")


ONLY = egress_policy("only", "REGISTRY_ONLY", app="client")


@pytest.mark.parametrize("scope", ["mesh", "namespace", "workload"])
def test_registry_only_at_each_scope(shop: Shop, outside: Outside, scope: str) -> None:
    written = {
        "mesh": egress_policy("only", "REGISTRY_ONLY", namespace=ROOT_NAMESPACE),
        "namespace": egress_policy("only", "REGISTRY_ONLY"),
        "workload": ONLY,
    }[scope]
    assert all(reaches(shop.client, outside, family) for family in Family)
    with confined(shop, written):
        for family in Family:
            eventually(lambda f=family: not reaches(shop.client, outside, f))  # type: ignore[misc]
            assert reaches(shop.other, outside, family) == (scope == "workload")
            assert reaches(shop.mesh.a.outside, outside, family), "who is not in the mesh is left alone"
    for family in Family:
        eventually(lambda f=family: reaches(shop.client, outside, f))  # type: ignore[misc]


def test_the_narrowest_policy_decides(shop: Shop, outside: Outside) -> None:
    wide = egress_policy("wide", "REGISTRY_ONLY", namespace=ROOT_NAMESPACE)
    with confined(shop, wide, egress_policy("free", "ALLOW_ANY", app="other")):
        eventually(lambda: not reaches(shop.client, outside, Family.V4))
        assert reaches(shop.other, outside, Family.V4)


def test_the_mesh_is_reached_as_ever(shop: Shop, behind: Behind, family: Family) -> None:
    with confined(shop, ONLY), behind.serve(echo), shop.dial(behind, family) as connection:
        assert roundtrip(connection, b"in") == b"in"


@pytest.mark.parametrize("way", ["tcp", "fastopen", "udp-connect", "udp-sendto", "mptcp"])
def test_it_is_refused_at_once_counted_and_told(shop: Shop, outside: Outside, family: Family, way: str) -> None:
    node, protocol = shop.mesh.a, "udp" if way.startswith("udp") else "tcp"

    def counted() -> float:
        return sum(
            sample.value
            for sample in node.metrics()
            if sample.name == "nodemesh_egress_total"
            and sample.labels
            == {"source_workload": "client", "source_workload_namespace": "shop", "protocol": protocol,
                "outcome": "refused"}
        )  # fmt: skip

    with confined(shop, ONLY):
        eventually(lambda: not reaches(shop.client, outside, Family.V4))
        before, since = counted(), node.access_position()
        assert leave(shop.client, way, outside.address(family)) == "EPERM"
        assert counted() >= before + 1
        there = outside.address(family).removeprefix("::ffff:")
        there = f"[{there}]:{PORT}" if family is Family.V6 else f"{there}:{PORT}"

        def told() -> dict[str, str] | None:
            lines = node.access(since=since, reason="egress-refused", dst_addr=there)
            mine = [line for line in lines if line["error"].startswith(protocol)]
            return mine[-1] if mine else None

        line = eventually(told, what="a line in the access log")
        assert line is not None and line["src.workload"] == "client" and "REGISTRY_ONLY" in line["hint"]
        shown = node.nodeagent("status", "-o", "json")
        assert any(row["destination"] == there and row["protocol"] == protocol for row in shown["egress"]["refused"])
        assert any(error["reason"] == "egress-refused" for error in shown["errors"])
    assert leave(shop.client, way, outside.address(family)) in ("ok", "ECONNREFUSED")


def test_loopback_is_always_allowed(shop: Shop) -> None:
    with confined(shop, ONLY), Server(shop.client.listen(PORT), echo):
        for address in ("127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::"):
            for way in ("tcp", "udp-connect", "udp-sendto"):
                assert leave(shop.client, way, address) == "ok", (address, way)


def test_sockets_that_would_pass_by_are_refused(shop: Shop) -> None:
    with confined(shop, ONLY):
        for way in ("raw", "udplite"):
            assert leave(shop.client, way, "127.0.0.1") == "EPERM", way
    assert leave(shop.client, "raw", "127.0.0.1") == "ok"


def test_open_connections_are_left_alone(shop: Shop, outside: Outside, family: Family) -> None:
    with shop.client.connect(outside.address(family), PORT) as connection:
        assert roundtrip(connection, b"before") == b"before"
        with confined(shop, ONLY):
            eventually(lambda: not reaches(shop.client, outside, family))
            assert roundtrip(connection, b"after") == b"after"


def test_explain_and_doctor_say_so(shop: Shop, outside: Outside) -> None:
    node = shop.mesh.a

    def explained(address: str) -> dict[str, Any]:
        done = node.outside.run(BIN / "nodeagent", "explain", "shop/client", address, "-o", "json", env=node.settings)
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    with confined(shop, ONLY):
        for address in (f"{outside.node.v4}:{PORT}", f"[{outside.node.v6}]:{PORT}"):
            told = explained(address)
            assert told["verdict"] == "refused" and "shop/only" in told["steps"][-1]["why"]
        assert explained("server")["verdict"] == "allowed"
        eventually(lambda: not reaches(shop.client, outside, Family.V4))
        done = node.outside.run(BIN / "nodeagent", "doctor", "-o", "json", env=node.settings)
        found = [item for item in json.loads(done.stdout) if item["area"] == "egress shop/client"]
        assert found and found[0]["level"] == "note" and found[0]["remedy"]
    assert explained(f"{outside.node.v4}:{PORT}")["verdict"] == "bypasses the mesh"


def test_meshctl_shows_the_policy(shop: Shop) -> None:
    with confined(shop, ONLY):
        listed = shop.mesh.meshctl("get", "egress").stdout
        assert "REGISTRY_ONLY" in listed and "app=client" in listed
        assert "shop/only (REGISTRY_ONLY)" in shop.mesh.meshctl("describe", "workload", "client").stdout
    bad = shop.mesh.meshctl("apply", "-f", shop.mesh._write((egress_policy("bad", "NONE"),)), check=False)
    assert bad.returncode != 0 and "spec.mode" in bad.stderr


@pytest.fixture(scope="module")
def world(make_shop: MakeShop) -> World:
    return World(make_shop())


def test_names_that_are_not_registered_are_not_asked_about(world: World, family: Family) -> None:
    """Neither of the resolver that the program chose, nor of any other: a question is a message."""
    shop = world.shop
    secret = f"secret-{family.value}.example.com"
    with confined(shop, ONLY):
        for protocol in ("connected", "sendto", "tcp"):
            for resolver in world.resolvers(family):
                (told,) = ask(shop.client, secret, "TXT", [resolver], protocol, family)
                assert told["rcode"] == "NXDOMAIN" and not told["records"]
            (told,) = ask(shop.client, "server.shop.mesh.internal", "A", world.resolvers(family)[:1], protocol, family)
            assert told["records"] == [shop.server.v4]
    assert secret.partition(".")[0].encode().hex() not in world.asked()
    (told,) = ask(shop.client, secret, "TXT", world.resolvers(family)[:1], "connected", family)
    assert told["rcode"] == "NOERROR"


def test_it_holds_while_the_agent_is_dead(world: World, family: Family) -> None:
    """Questions to resolvers, which go on directly elsewhere, included."""
    shop = world.shop
    there = family.form(shop.mesh.b.v4, shop.mesh.b.v6)
    with confined(shop, ONLY):
        shop.mesh.a.stop_agent(signal.SIGKILL)
        try:
            for way in ("tcp", "udp-connect", "udp-sendto"):
                assert leave(shop.client, way, there) == "EPERM"
                assert leave(shop.client, way, world.resolvers(family)[0], 53) == "EPERM"
            assert leave(shop.other, "udp-sendto", there) == "ok"
        finally:
            shop.mesh.a.start_agent()
            shop.mesh.a.wait_ready()


def test_a_workload_that_starts_confined_never_gets_out(world: World) -> None:
    shop = world.shop
    late = shop.mesh.spot_of(shop.mesh.a, "late")
    shop.mesh.apply(egress_policy("late", "REGISTRY_ONLY", app="late"), workload("late", shop.mesh.a.name))
    shop.mesh.wait_enrolled(late)
    assert leave(late, "tcp", shop.mesh.b.v4) == "EPERM"
