"""The doctor on a real node, and what it says when something is broken."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from nodeagent.loader.abi import AttachType
from nodeagent.loader.sys import libbpf
from tests.netns import resources
from tests.netns.lab import BIN, Node, eventually
from tests.netns.pods import Pod
from tests.netns.resources import peer_authentication
from tests.netns.servers import echo, http_hello, roundtrip
from tests.netns.shop import TARGET_PORT, Family, Shop
from tests.netns.spot import Spot

SOCK_ADDR = 18
CGROUP_SKB = 8
PASS = bytes.fromhex("b7000000010000009500000000000000")
"""A program of somebody else's: r0 = 1; exit."""


def examine(node: Node) -> tuple[int, list[dict[str, Any]]]:
    """Exit status and findings."""
    done = node.outside.run(BIN / "nodeagent", "doctor", "-o", "json", env=node.settings)
    assert done.stdout, done.stderr.decode()
    return done.returncode, json.loads(done.stdout)


def about(found: list[dict[str, Any]], area: str) -> list[dict[str, Any]]:
    return [item for item in found if item["area"] == area]


def explained(node: Node, source: str, destination: str) -> tuple[int, dict[str, Any]]:
    """Exit status, and what would become of the connection."""
    done = node.outside.run(BIN / "nodeagent", "explain", source, destination, "-o", "json", env=node.settings)
    assert done.stdout, done.stderr.decode()
    return done.returncode, json.loads(done.stdout)


def test_a_node_that_is_well_is_told_so(shop: Shop) -> None:
    with shop.local.serve(http_hello):  # somebody runs in the workload's cgroup
        _, found = examine(shop.mesh.a)
    for area in ("privileges", "kernel", "cgroups", "ports", "control", "clock", "agent", "certificates"):
        assert all(item["level"] != "BAD" for item in about(found, area)) and about(found, area), (area, found)
    assert [item["level"] for item in about(found, "hooks")] == ["ok"], "our own programs are no neighbours"
    (mine,) = about(found, "workload shop/local")
    assert mine["level"] == "ok" and "captured" in mine["text"]


def test_a_selector_that_finds_nothing_is_told_with_its_remedy(shop: Shop) -> None:
    with shop.mesh.applied(resources.workload("ghost", shop.mesh.a.name, selectors={"systemdUnit": "ghost.service"})):
        eventually(lambda: about(examine(shop.mesh.a)[1], "workload shop/ghost"), what="the agent knows of it")
        status, found = examine(shop.mesh.a)
    (ghost,) = about(found, "workload shop/ghost")
    assert status == 1 and ghost["level"] == "BAD" and "ghost.service" in ghost["text"] and ghost["remedy"]


def test_it_explains_who_may_connect_and_why(shop: Shop) -> None:
    node = shop.mesh.a
    done = node.outside.run(BIN / "nodeagent", "explain", "shop/client", "shop/server", "-o", "json", env=node.settings)
    told = json.loads(done.stdout)
    assert done.returncode == 0 and told["verdict"] == "allowed"
    assert any(f":{TARGET_PORT}" in step["why"] for step in told["steps"])


# --- what may be wrong with a host ---


TAKES = """
import socket, time
tcp = socket.create_server(("::", 15001), family=socket.AF_INET6, dualstack_ipv6=True)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind(("127.0.0.1", 15054))
print("taken", flush=True)
time.sleep(600)
"""


def test_ports_that_others_have(shop: Shop, tmp_path: Path) -> None:
    """In a namespace without an agent, as where none could start: each port, and the setting that moves it."""
    with Pod(shop.mesh, shop.mesh.a, "busy", 11) as pod:
        pod.outside.spawn(sys.executable, "-c", TAKES, log=tmp_path / "log")
        eventually(lambda: "taken" in (tmp_path / "log").read_text(), what="the ports are taken")
        elsewhere = {**shop.mesh.a.settings, "NODEMESH_RUN_DIR": str(tmp_path / "run")}
        done = pod.outside.run(BIN / "nodeagent", "doctor", "-o", "json", env=elsewhere)
        found = about(json.loads(done.stdout), "ports")
        assert done.returncode == 1
        assert [item["text"].split(" is ")[0] for item in found] == ["15001 (ports.outbound)", "15054 (ports.dns)"]
        assert all(" is taken by python" in item["text"] and ", process " in item["text"] for item in found)


def test_other_programs_on_the_same_hooks(shop: Shop) -> None:
    """Named by their number and hook. (The machine's own may be on the cgroups above.)"""
    node = shop.mesh.a
    before = about(examine(node)[1], "hooks")
    program = libbpf().load_program(SOCK_ADDR, AttachType.INET4_CONNECT, PASS)
    root = os.open(node.site.cgroup, os.O_RDONLY)
    link = libbpf().attach(program, root, AttachType.INET4_CONNECT)
    try:
        (other,) = [item for item in about(examine(node)[1], "hooks") if item not in before]
        assert other["level"] == "note" and "inet4_connect" in other["text"].lower() and "bpftool" in other["remedy"]
    finally:
        for descriptor in (link, root, program):
            os.close(descriptor)
    assert other not in about(examine(node)[1], "hooks")


def test_filters_on_a_workloads_packets(shop: Shop) -> None:
    """As those of IPAddressDeny=; and where the kernel may give the agent's ports to others."""
    node = shop.mesh.a
    egress = 1
    program = libbpf().load_program(CGROUP_SKB, egress, PASS)
    cgroup = os.open(node.site.cgroup / "shop/client", os.O_RDONLY)
    link = libbpf().attach(program, cgroup, egress)
    try:
        (told,) = about(examine(node)[1], "filters of shop/client")
        assert told["level"] == "note" and "mesh_probe" in told["text"] and "IPAddressAllow" in told["remedy"]
    finally:
        for descriptor in (link, cgroup, program):
            os.close(descriptor)
    _, found = examine(node)
    assert not about(found, "filters of shop/client")
    assert [item["level"] for item in about(found, "reserved ports")] == ["ok"]


@pytest.mark.parametrize(
    ("lost", "named"),
    [("+all,-sys_ptrace", "CAP_SYS_PTRACE"), ("-all", "CAP_BPF"), ("+all,-net_admin", "CAP_NET_ADMIN")],
)
def test_capabilities_that_are_missing(shop: Shop, lost: str, named: str) -> None:
    node = shop.mesh.a
    less = ("setpriv", f"--bounding-set={lost}", "--inh-caps=-all", BIN / "nodeagent", "doctor", "-o", "json")
    done = node.outside.run(*less, env=node.settings)
    (told,) = about(json.loads(done.stdout), "privileges")
    assert done.returncode == 1 and told["level"] == "BAD" and named in told["text"] and told["remedy"]


def test_a_directory_that_is_no_bpffs(shop: Shop, tmp_path: Path) -> None:
    node = shop.mesh.a
    settings = {**node.settings, "NODEMESH_BPFFS": str(tmp_path)}
    done = node.outside.run(BIN / "nodeagent", "doctor", "-o", "json", env=settings)
    (told,) = about(json.loads(done.stdout), "bpffs")
    assert told["level"] == "note" and f"mount -t bpf bpf {tmp_path}" in told["remedy"]


# --- each kind of decision, as it is explained and as it is ---


@pytest.mark.parametrize(
    ("mode", "verdict", "lets_in"),
    [("STRICT", "refused", False), ("PERMISSIVE", "allowed", True), ("DISABLE", "allowed", True)],
)
def test_plaintext_from_outside(shop: Shop, family: Family, mode: str, verdict: str, lets_in: bool) -> None:
    a, b = shop.mesh.a, shop.mesh.b
    source, there = family.form(a.v4, a.v6), family.form(b.v4, b.v6)
    with shop.server.serve(echo), shop.mesh.applied(peer_authentication("mode", mode, app="server")):

        def told() -> dict[str, Any]:
            return explained(b, source, f"[{there}]:{TARGET_PORT}")[1]

        eventually(lambda: mode in str(told()["steps"]), what="the mode is known")
        assert told()["verdict"] == verdict
        eventually(lambda: gets_in(a.outside, there) == lets_in, what=f"it is met as {mode} says")


def gets_in(spot: Spot, address: str) -> bool:
    try:
        with spot.connect(address, TARGET_PORT) as connection:
            return roundtrip(connection, b"plain") == b"plain"
    except ConnectionRefusedError:
        return False


def test_who_has_left(shop: Shop) -> None:
    node = shop.mesh.a
    gone = resources.workload("gone", node.name, labels={"nodemesh.io/capture": "off"})
    with shop.mesh.applied(gone):
        eventually(lambda: explained(node, "shop/gone", "shop/server")[1]["verdict"] == "bypasses the mesh")
        told = explained(node, "shop/gone", "shop/server")[1]
        assert "nodemesh.io/capture=off" in told["steps"][-1]["why"]


def test_a_host_outside_the_mesh(shop: Shop) -> None:
    node = shop.mesh.a
    entry = resources.service_entry("abroad", "api.abroad.example", port=9443, endpoints=[{"address": "192.0.2.9"}])
    with shop.mesh.applied(entry):

        def told() -> dict[str, Any]:
            return explained(node, "shop/client", "api.abroad.example:443")[1]

        eventually(lambda: told()["verdict"] == "allowed", what="the entry is known")
        assert "192.0.2.9 port 9443" in str(told()["steps"]) and "outside the mesh" in str(told()["steps"])


def test_a_policy_that_denies_is_named(shop: Shop) -> None:
    node = shop.mesh.a
    denies = resources.policy("no-client", "DENY", app="server", rules=[resources.from_principal("client")])
    with shop.mesh.applied(denies):
        eventually(lambda: explained(node, "shop/client", "shop/server")[0] == 1, what="it is refused")
        told = explained(node, "shop/client", "shop/server")[1]
        assert told["verdict"] == "refused" and "shop/no-client" in str(told["steps"])
