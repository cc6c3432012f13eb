"""Real containers, each in a network namespace of its own: they are not told of the mesh, and cannot get around it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.netns import resources
from tests.netns.containers import Container, Crun, Podman, PodmanCrun, Runc
from tests.netns.lab import Mesh, eventually, identity
from tests.netns.pods import Pod
from tests.netns.resources import from_principal, policy
from tests.netns.servers import http_get, http_hello
from tests.netns.shop import PORT, TARGET_PORT, Family, Shop
from tests.netns.town import place_of, workload_of

pytestmark = pytest.mark.timeout(300)
VIP = {"near": ("240.240.3.1", "fd6d:6573:68::301"), "far": ("240.240.3.2", "fd6d:6573:68::302")}


@dataclass
class Harbour:
    """Two containers on the first node, of runc and of crun, one on the second."""

    shop: Shop
    caller: Container
    near: Container
    far: Container

    @property
    def mesh(self) -> Mesh:
        return self.shop.mesh


def wait_served(*containers: Container) -> None:
    """Until each agent listens in its containers' namespaces."""
    for container in containers:
        pod = container.pod

        def served(pod: Pod = pod) -> bool:
            return (pod.inode, True) in [(p["inode"], p["served"]) for p in place_of(pod.node, pod.name)]

        eventually(served, within=15, what=f"{pod.name} is served")


@pytest.fixture(scope="module")
def harbour(shop: Shop) -> Iterator[Harbour]:
    mesh = shop.mesh
    with contextlib.ExitStack() as stack:
        pods = [
            stack.enter_context(Pod(mesh, node, name, number))
            for node, name, number in ((mesh.a, "caller", 11), (mesh.a, "near", 12), (mesh.b, "far", 11))
        ]
        wanted = [workload_of(pod) for pod in pods]
        wanted += [resources.service(name, {PORT: TARGET_PORT}, addresses=VIP[name]) for name in VIP]
        stack.enter_context(mesh.applied(*wanted))
        mesh.wait_enrolled(*(pod.spot for pod in pods))
        kinds = (Runc, Crun, Runc)
        caller, near, far = (stack.enter_context(kind(pod)) for kind, pod in zip(kinds, pods, strict=True))
        wait_served(caller, near, far)
        yield Harbour(shop, caller, near, far)


@pytest.fixture(params=["near", "far"], ids=["same-node", "cross-node"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_container_to_container(harbour: Harbour, name: str, family: Family) -> None:
    """By the service's address; each has its own identity; the server sees the client's own address."""
    node = getattr(harbour, name).pod.node
    since = node.access_position()
    assert harbour.caller.get(family.form(*VIP[name]), PORT) == f"this is {name}"
    lines = eventually(lambda: node.access(since=since, direction="inbound", dst_workload=name), what="the log line")
    assert {(line["src.identity"], line["dst.identity"]) for line in lines} == {(identity("caller"), identity(name))}
    seen = harbour.caller.get(family.form(*VIP[name]), PORT, "/cgi-bin/who").strip("[]").removeprefix("::ffff:")
    pod = harbour.caller.pod
    assert seen == (pod.v6 if family is Family.V6 else pod.v4)


def test_container_to_host_workload(harbour: Harbour, family: Family) -> None:
    for behind in (harbour.shop.local, harbour.shop.server):
        with behind.serve(http_hello):
            assert harbour.caller.get(behind.address(family), PORT, "/x") == "you asked: GET /x HTTP/1.1"


def test_host_workload_to_container(harbour: Harbour, name: str, family: Family) -> None:
    with harbour.shop.client.connect(family.form(*VIP[name]), PORT) as connection:
        assert http_get(connection, "/") == (200, f"this is {name}\n".encode())


def test_policy_denies_a_container(harbour: Harbour, name: str, family: Family) -> None:
    allow = policy("only-client", "ALLOW", app=name, rules=[from_principal("client")])
    address = family.form(*VIP[name])
    with harbour.mesh.applied(allow):

        def refused() -> bool:
            with pytest.raises(OSError, match="wget"):
                harbour.caller.get(address, PORT)
            return True

        eventually(refused, what="the container is refused")
        with harbour.shop.client.connect(address, PORT) as connection:
            assert http_get(connection, "/")[0] == 200
    eventually(lambda: harbour.caller.get(address, PORT), what="it is let in again")


@pytest.mark.parametrize("kind", [Podman, PodmanCrun])
def test_podman(harbour: Harbour, kind: type[Podman], family: Family) -> None:
    """With cgroup v2 alone its conmon sits below the same cgroup, in the node's namespace: the workload's address tells
    where to connect.
    """
    mesh = harbour.mesh
    vip = ("240.240.3.3", "fd6d:6573:68::303")
    with (
        Pod(mesh, mesh.a, "podman", 13) as pod,
        mesh.applied(workload_of(pod), resources.service("podman", {PORT: TARGET_PORT}, addresses=vip)),
    ):
        mesh.wait_enrolled(pod.spot)
        with kind(pod) as container:
            wait_served(container)
            assert harbour.caller.get(family.form(*vip), PORT) == "this is podman"
            assert container.get(family.form(*VIP["near"]), PORT) == "this is near"
            assert (pod.inode, True) in [(p["inode"], p["served"]) for p in place_of(mesh.a, "podman")]
