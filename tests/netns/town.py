"""The shop, and workloads of it that live in network namespaces of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tests.netns import reading, resources
from tests.netns.lab import Node, eventually
from tests.netns.pods import Pod
from tests.netns.servers import Handler, Server
from tests.netns.shop import PORT, TARGET_PORT, Family, Shop
from tests.netns.spot import Spot

VIP = {"near": ("240.240.2.1", "fd6d:6573:68::201"), "far": ("240.240.2.2", "fd6d:6573:68::202")}


class Town:
    """A client and a server in pods of the first node, a server in a pod of the second."""

    def __init__(self, shop: Shop, walker: Pod, near: Pod, far: Pod) -> None:
        self.shop, self.mesh = shop, shop.mesh
        self.walker, self.near, self.far = walker, near, far

    def pod(self, name: str) -> Pod:
        """One of the servers' pods."""
        return {"near": self.near, "far": self.far}[name]

    def serve(self, name: str, handler: Handler) -> Server:
        """A server in a pod, for the time of a block."""
        return Server(self.pod(name).spot.listen(TARGET_PORT), handler)

    def dial(self, source: Spot, name: str, family: Family) -> Any:
        """A connection to the service before a pod."""
        return source.connect(family.form(*VIP[name]), PORT)


@contextlib.contextmanager
def town(shop: Shop) -> Iterator[Town]:
    """For the time of a block; the shop is left as it was."""
    mesh = shop.mesh
    with contextlib.ExitStack() as stack:
        walker = stack.enter_context(Pod(mesh, mesh.a, "walker", 1))
        near = stack.enter_context(Pod(mesh, mesh.a, "near", 2))
        far = stack.enter_context(Pod(mesh, mesh.b, "far", 1))
        wanted = [workload_of(pod) for pod in (walker, near, far)]
        wanted += [resources.service(name, {PORT: TARGET_PORT}, addresses=VIP[name]) for name in VIP]
        stack.enter_context(mesh.applied(*wanted))
        mesh.wait_enrolled(walker.spot, near.spot, far.spot)
        wait_served(walker, near, far)
        yield Town(shop, walker, near, far)


def workload_of(pod: Pod) -> dict[str, Any]:
    """The pod's workload, known by the pod's own addresses."""
    return resources.workload(pod.name, pod.node.name, addresses=[pod.v4, pod.v6])


def place_of(node: Node, name: str) -> list[dict[str, Any]]:
    """What the agent tells of the network namespaces of a workload."""
    rows = reading.debug(node.outside, "/debug/workloads")
    found: list[dict[str, Any]] = next(row["network_namespaces"] for row in rows if row["name"] == name)
    return found


def wait_served(*pods: Pod) -> None:
    """Until the agent knows the pods' processes (one that stays is begun in each) and listens where they are."""
    for pod in pods:
        pod.spot.stay()
    for pod in pods:

        def served(pod: Pod = pod) -> bool:
            return [(p["inode"], p["served"]) for p in place_of(pod.node, pod.name)] == [(pod.inode, True)]

        eventually(served, within=15, what=f"{pod.name} is served in its namespace")
