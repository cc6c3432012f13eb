"""Who a container is: by its id and its labels, as runc, crun, podman and docker tell them, and by the UID of a pod."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.netns import reading, resources
from tests.netns.containers import Container, Crun, Docker, Podman, PodmanCrun, Runc, docker_engine
from tests.netns.lab import BIN, eventually, identity
from tests.netns.place import kill_all
from tests.netns.pods import Pod, remove_cgroup
from tests.netns.servers import http_get, http_hello
from tests.netns.shop import PORT, TARGET_PORT, Family, Shop
from tests.netns.spot import Spot
from tests.netns.test_enrolment import carried_as
from tests.netns.test_namespace_ends import move
from tests.netns.town import place_of

pytestmark = pytest.mark.timeout(300)
NUMBER = {"bundle": 31, "podman": 32, "docker": 33, "twice": 34}
VIP = ("240.240.4.1", "fd6d:6573:68::401")
POD_UID = "0ba7f3c2-6a1e-4d1c-9f8e-2c1f3a4b5d6e"
LOW_UID = POD_UID.replace("-", "_")


@contextlib.contextmanager
def boxed(shop: Shop, **spec: Any) -> Iterator[None]:
    """The workload and the service ``box`` for the time of a block."""
    box = resources.workload("box", shop.mesh.a.name, **spec)
    with shop.mesh.applied(box, resources.service("box", {PORT: spec.get("ports", [TARGET_PORT])[0]}, addresses=VIP)):
        yield


def wait_enrolled(shop: Shop, *inodes: int) -> None:
    """Until the agent knows the box's cgroups, and listens in each of these network namespaces."""

    def there() -> bool:
        return set(inodes) <= {place["inode"] for place in place_of(shop.mesh.a, "box") if place["served"]}

    eventually(there, within=20, what="the box is enrolled")


def talks_as_box(shop: Shop, container: Container, family: Family) -> None:
    """Both ways: a container's request carries its identity, and a request of the host's reaches it."""
    since = shop.mesh.b.access_position()
    with shop.server.serve(http_hello):
        assert container.get(shop.server.address(family), PORT, "/x") == "you asked: GET /x HTTP/1.1"
    lines = eventually(lambda: shop.mesh.b.access(since=since, direction="inbound", dst_workload="server"))
    assert {line["src.identity"] for line in lines} == {identity("box")}
    with shop.client.connect(family.form(*VIP), PORT) as connection:
        assert http_get(connection, "/") == (200, f"this is {container.pod.name}\n".encode())


@pytest.mark.parametrize("kind", [Runc, Crun])
def test_by_its_id(shop: Shop, kind: type[Runc], family: Family) -> None:
    with (
        Pod(shop.mesh, shop.mesh.a, "bundle", NUMBER["bundle"]) as pod,
        kind(pod) as container,
        boxed(shop, selectors={"containerId": container.id}, addresses=[pod.v4, pod.v6]),
    ):
        wait_enrolled(shop, pod.inode)
        talks_as_box(shop, container, family)


@pytest.mark.parametrize("kind", [Runc, Crun])
def test_by_annotations(shop: Shop, kind: type[Runc], family: Family) -> None:
    """Made anew it is the same workload: nobody has to be told of its new id."""
    labels = {"role": "box", "tier": shop.mesh.place.directory.name}
    selectors = {"containerLabels": labels}
    with (
        Pod(shop.mesh, shop.mesh.a, "bundle", NUMBER["bundle"]) as pod,
        boxed(shop, selectors=selectors, addresses=[pod.v4, pod.v6]),
    ):
        for _ in range(2):
            with kind(pod, **labels) as container:
                wait_enrolled(shop, pod.inode)
                talks_as_box(shop, container, family)
            eventually(lambda: place_of(shop.mesh.a, "box") == [], what="its end is noticed")


@pytest.mark.parametrize("kind", [Podman, PodmanCrun])
def test_podman_by_labels(shop: Shop, kind: type[Podman], family: Family) -> None:
    labels = {"app": "box", "place": shop.mesh.place.directory.name}
    with (
        Pod(shop.mesh, shop.mesh.a, "podman", NUMBER["podman"]) as pod,
        boxed(shop, selectors={"containerLabels": labels}, addresses=[pod.v4, pod.v6]),
        kind(pod, **labels) as container,
    ):
        wait_enrolled(shop, pod.inode)
        talks_as_box(shop, container, family)


@pytest.fixture(scope="module")
def docked(shop: Shop) -> Iterator[Docker]:
    """A container of docker, with a label."""
    with (
        docker_engine(shop.mesh, shop.mesh.a),
        Pod(shop.mesh, shop.mesh.a, "docker", NUMBER["docker"]) as pod,
        Docker(pod, app="box", place=shop.mesh.place.directory.name) as container,
    ):
        yield container


@pytest.mark.parametrize("how", ["labels", "short id"])
def test_docker(shop: Shop, docked: Docker, how: str, family: Family) -> None:
    """It has no address but loopback's, and the mesh reaches it all the same."""
    selectors: dict[str, Any] = {"containerLabels": docked.labels}
    if how == "short id":
        selectors = {"containerId": docked.engine_id[:12]}
    with boxed(shop, selectors=selectors, addresses=[docked.pod.v4, docked.pod.v6]):
        wait_enrolled(shop, docked.inode)
        talks_as_box(shop, docked, family)


@pytest.mark.parametrize(
    "path",
    [
        f"kubepods/burstable/pod{POD_UID}/{'a' * 64}",
        f"kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{LOW_UID}.slice/cri-containerd-bb.scope",
    ],
    ids=["cgroupfs", "systemd"],
)
def test_a_pod_by_its_uid(shop: Shop, path: str, family: Family) -> None:
    spot = shop.mesh.a.spot(path)
    spot.cgroup.mkdir(parents=True, exist_ok=True)
    with shop.mesh.applied(resources.workload("guest", shop.mesh.a.name, selectors={"podUid": POD_UID})):
        known = shop.mesh.a.outside
        eventually(lambda: _cgroups(known, "guest"), what="the pod is found")
        assert carried_as(shop, spot, family) == identity("guest")
    kill_all(spot.cgroup)
    spot.close()
    top = spot.cgroup.parents[len(path.split("/")) - 2]
    for cgroup in sorted([top, *(p for p in top.rglob("*") if p.is_dir())], reverse=True):
        remove_cgroup(cgroup)


def _cgroups(spot: Spot, name: str) -> list[int]:
    return [
        cgroup for row in reading.debug(spot, "/debug/workloads") if row["name"] == name for cgroup in row["cgroups"]
    ]


def test_a_container_that_two_workloads_select_is_nobody_s(shop: Shop, family: Family) -> None:
    """Refused, not let past; both are named."""
    labels = {"unique": uuid.uuid4().hex}
    mesh = shop.mesh
    with Pod(mesh, mesh.a, "twice", NUMBER["twice"]) as pod, Runc(pod, **labels) as container:
        addresses = [pod.v4, pod.v6]
        one = resources.workload("one", mesh.a.name, selectors={"containerId": container.id}, ports=[7001])
        two = resources.workload("two", mesh.a.name, selectors={"containerLabels": labels}, ports=[7002])
        for each in (one, two):
            each["spec"]["addresses"] = addresses
        with mesh.applied(one, two):

            def told() -> bool:
                text = mesh.a.nodeagent("workloads")
                return (
                    all(f"shop/{name}: cgroup " in text for name in ("one", "two"))
                    and "is selected by shop/one" in text
                )

            eventually(told, what="'nodeagent workloads' names both")
            with shop.server.serve(http_hello), pytest.raises(OSError, match="not permitted"):
                container.get(shop.server.address(family), PORT)
        with mesh.applied(one):
            eventually(lambda: place_of(mesh.a, "one"), what="one alone is enrolled")
            with shop.server.serve(http_hello):
                eventually(lambda: container.get(shop.server.address(family), PORT, "/x"), what="it is somebody again")


def greet_and_close(connection: socket.socket) -> None:
    connection.sendall(b"220 ready\r\n")
    connection.close()


def test_services_of_one_cgroup_by_their_users(shop: Shop, family: Family) -> None:
    """Each its own identity; 'nodeagent wait' knows them apart; whoever else is in there is left alone."""
    node, address = shop.mesh.a, shop.server.address(family)
    spot = node.spot("system.slice/shared.service")
    spot.cgroup.mkdir(parents=True, exist_ok=True)
    selectors = {"systemdUnit": "shared.service"}
    users = {"front": 1001, "back": 1002}
    wanted = [resources.workload(n, node.name, selectors={**selectors, "uid": u}, ports=[u]) for n, u in users.items()]

    def ask(uid: int, *wait: str) -> subprocess.CompletedProcess[bytes]:
        program = f"import socket; print(socket.create_connection(('{address}', {PORT}), 10).recv(100))"
        become = f"exec setpriv --reuid={uid} --clear-groups /usr/bin/python3 -c"
        return spot.run("/bin/sh", "-c", f'{" ".join(wait)} {become} "$0"', program, env=node.settings, timeout=90)

    with shop.mesh.applied(*wanted), shop.server.serve(greet_and_close):
        for name, uid in users.items():
            since = shop.mesh.b.access_position()
            done = ask(uid, str(BIN / "nodeagent"), "wait", "--timeout", "60", "--uid", str(uid), "&&")
            assert (done.returncode, done.stdout) == (0, b"b'220 ready\\r\\n'\n"), done.stderr
            lines = eventually(lambda since=since: shop.mesh.b.access(since=since, dst_workload="server"))
            assert {line["src.identity"] for line in lines} == {identity(name)}
        assert ask(1003).returncode != 0, "nobody's connections are taken: the virtual address leads nowhere"
        waited = spot.run(BIN / "nodeagent", "wait", "--timeout", "0", env=node.settings)
        assert b"no workload of this node selects" in waited.stderr
    spot.close()
    remove_cgroup(spot.cgroup)


def test_who_leaves_the_cgroup_loses_the_identity(shop: Shop, family: Family) -> None:
    """The very process: what it connects to afterwards is not taken."""
    spot, outside = shop.mesh.a.spot("shop/mover"), shop.mesh.a.outside
    spot.cgroup.mkdir(parents=True, exist_ok=True)
    with shop.mesh.applied(resources.workload("mover", shop.mesh.a.name)):
        shop.mesh.wait_enrolled(spot)
        assert carried_as(shop, spot, family) == identity("mover")
        move(spot, outside.cgroup)
        with pytest.raises(OSError, match="unreachable"):
            spot.connect(shop.server.address(family), PORT)
    spot.close()
    remove_cgroup(spot.cgroup)
