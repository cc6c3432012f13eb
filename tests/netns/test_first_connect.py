"""A program that is held back (an OCI hook, ``nodeagent wait``) is in the mesh from its first instruction on.

The program's first and only act is a connect() to a workload's own address, which it would reach past the mesh as well:
the server's log says whether it came with an identity.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.netns import reading, resources
from tests.netns.containers import Crun, Podman, PodmanCrun, Runc
from tests.netns.lab import BIN, Node, eventually, identity
from tests.netns.pods import Pod, remove_cgroup
from tests.netns.servers import greeter
from tests.netns.shop import Family, Shop
from tests.netns.town import Town
from tests.netns.town import town as make_town

pytestmark = pytest.mark.timeout(600)
ROUNDS = 8
"""For each family."""
PROGRAM = r"""
#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
int main(int argc, char **argv) {
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(8080) };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(8080) };
	int six = inet_pton(AF_INET, argv[1], &v4.sin_addr) != 1, fd = socket(six ? AF_INET6 : AF_INET, SOCK_STREAM, 0);
	char text[4];
	if (six && inet_pton(AF_INET6, argv[1], &v6.sin6_addr) != 1)
		return 2;
	if (connect(fd, six ? (void *)&v6 : (void *)&v4, six ? sizeof(v6) : sizeof(v4)))
		return 3;
	return read(fd, text, 4) == 4 ? 0 : 4;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Linked statically: it runs in an empty root."""
    place = tmp_path_factory.mktemp("first")
    (place / "first.c").write_text(PROGRAM)
    subprocess.run(["musl-gcc", "-static", "-O", "-o", place / "first", place / "first.c"], check=True)
    return place / "first"


FORWARDING = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")


@pytest.fixture(scope="module")
def town(shop: Shop) -> Iterator[Town]:
    """Its first node passes on what one pod sends another, or nothing could get past the mesh."""
    with make_town(shop) as made:
        before = [_forwarding(shop.mesh.a, name) for name in FORWARDING]
        for name in FORWARDING:
            _forwarding(shop.mesh.a, name, "1")
        yield made
        for name, value in zip(FORWARDING, before, strict=True):
            _forwarding(shop.mesh.a, name, value)


def _forwarding(node: Node, name: str, value: str = "") -> str:
    """What the switch says, before it is set to the value, if one is given."""
    line = 'cat "$0" && { [ -z "$1" ] || echo "$1" > "$0"; }'
    done = node.outside.run("/bin/sh", "-c", line, f"/proc/sys/{name}", value)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().strip()


def hook_of(node: Node, *options: str) -> dict[str, Any]:
    """As an operator writes it, with the settings of the node's agent."""
    return {
        "path": str(BIN / "nodeagent"),
        "args": ["nodeagent", "oci-hook", "--timeout", "20", *options],
        "env": [f"{name}={value}" for name, value in node.settings.items()] + ["PATH=/usr/bin:/bin"],
        "timeout": 60,
    }


def counted(shop: Shop, town: Town, since: int, rounds: int) -> None:
    """Every connection came with the identity of the box, none without."""

    def lines() -> list[dict[str, str]]:
        return [line for line in shop.mesh.a.access(since=since, dst_workload="near") if line["direction"] == "inbound"]

    eventually(lambda: len(lines()) == rounds, what="every connection is in the log")
    assert {line["src.identity"] for line in lines()} == {identity("box")}


@pytest.mark.parametrize("kind", [Runc, Crun])
def test_a_container_with_the_hook(shop: Shop, town: Town, program: Path, kind: type[Runc], family: Family) -> None:
    """Made anew each time, selected by a label that the agent first hears of from the hook."""
    mesh, labels = shop.mesh, {"first": shop.mesh.place.directory.name}
    since = mesh.a.access_position()
    with Pod(mesh, mesh.a, "first", 41) as pod, town.serve("near", greeter) as server:
        box = resources.workload("box", mesh.a.name, selectors={"containerLabels": labels}, addresses=[pod.v4, pod.v6])
        with mesh.applied(box):
            eventually(lambda: "box" in _names(mesh.a), what="the agent knows of the workload")
            for _ in range(ROUNDS):
                container = kind(pod, **labels)
                container.hook = hook_of(mesh.a)
                container.SERVER = ("/bin/first", family.form(town.near.v4, town.near.v6))
                shutil.copy(program, container.directory / "rootfs/bin/first")
                ended = mesh.a.outside.run(*container.command())
                assert ended.returncode == 0, ended.stderr.decode() + ended.stdout.decode()
                container.remove()
                shutil.rmtree(container.directory)
            assert len(server.connections) == ROUNDS
            counted(shop, town, since, ROUNDS)
            eventually(lambda: not list(_records(mesh.a)), what="records of containers that are gone are gone")


@pytest.mark.parametrize("kind", [Podman, PodmanCrun])
def test_a_container_of_podman_with_the_hook(
    shop: Shop, town: Town, program: Path, kind: type[Podman], family: Family
) -> None:
    """Its labels are in podman's database, whose container lock podman holds meanwhile."""
    mesh, labels = shop.mesh, {"first": f"{shop.mesh.place.directory.name}-podman"}
    since = mesh.a.access_position()
    with Pod(mesh, mesh.a, "first", 41) as pod, town.serve("near", greeter):
        box = resources.workload("box", mesh.a.name, selectors={"containerLabels": labels}, addresses=[pod.v4, pod.v6])
        with mesh.applied(box):
            eventually(lambda: "box" in _names(mesh.a), what="the agent knows of the workload")
            container = kind(pod, **labels)
            container.hook = hook_of(mesh.a)
            container.SERVER = ("/bin/first", family.form(town.near.v4, town.near.v6))
            shutil.copy(program, container.directory / "rootfs/bin/first")
            ended = mesh.a.outside.run(*container.command())
            container.remove()
            shutil.rmtree(container.directory)
            assert ended.returncode == 0, ended.stderr.decode()
            counted(shop, town, since, 1)


def test_a_unit_that_waits(shop: Shop, town: Town, program: Path, family: Family) -> None:
    """A new cgroup each time; the program replaces the one that waited."""
    mesh, address = shop.mesh, family.form(town.near.v4, town.near.v6)
    since = mesh.a.access_position()
    with town.serve("near", greeter), mesh.applied(resources.workload("box", mesh.a.name)):
        eventually(lambda: "box" in _names(mesh.a), what="the agent knows of the workload")
        for _ in range(ROUNDS):
            spot = mesh.a.spot("shop/box")
            line = '"$0" wait --timeout 20 && exec "$1" "$2"'
            ended = spot.run("/bin/sh", "-c", line, BIN / "nodeagent", program, address, env=mesh.a.settings)
            assert ended.returncode == 0, ended.stderr.decode()
            spot.close()
            remove_cgroup(spot.cgroup)
        counted(shop, town, since, ROUNDS)


@pytest.mark.parametrize("optional", [False, True])
def test_a_container_that_nobody_selects(shop: Shop, town: Town, program: Path, optional: bool) -> None:
    """Refused with the reason, or let go where the hook says so."""
    mesh = shop.mesh
    with Pod(mesh, mesh.a, "first", 41) as pod, town.serve("near", greeter):
        container = Runc(pod)
        container.hook = hook_of(mesh.a, *(["--optional"] if optional else ["--timeout", "1"]))
        container.SERVER = ("/bin/first", town.near.v4)
        shutil.copy(program, container.directory / "rootfs/bin/first")
        ended = mesh.a.outside.run(*container.command())
        container.remove()
        shutil.rmtree(container.directory)
        assert (ended.returncode == 0) is optional, ended.stderr.decode()
        if not optional:
            assert b"no workload of this node selects the cgroup of container" in ended.stderr


def _names(node: Node) -> set[str]:
    return {row["name"] for row in reading.debug(node.outside, "/debug/workloads")}


def _records(node: Node) -> Iterator[Path]:
    return Path(node.settings["NODEMESH_RUN_DIR"]).glob("*.containers/*.json")
