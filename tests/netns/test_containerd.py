"""Containers of a real containerd: of ``ctr``, and pods of its CRI, captured before their first connection."""

from __future__ import annotations

import contextlib
import signal
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nodeagent.containers.bolt import Bucket, read_beside_writer
from nodeagent.containers.containerd import DATABASE
from tests.netns import cri, resources
from tests.netns.containerd import Ctr, Engine, Sandbox, containerd
from tests.netns.lab import Node, eventually, identity
from tests.netns.pods import Pod
from tests.netns.reading import debug
from tests.netns.servers import http_hello
from tests.netns.shop import PORT, Family, Shop
from tests.netns.test_attestation import boxed, greet_and_close, talks_as_box, wait_enrolled
from tests.netns.test_first_connect import counted, hook_of
from tests.netns.town import Town
from tests.netns.town import town as make_town

pytestmark = pytest.mark.timeout(300)
NUMBER = 51
SERVER_PORT = 8080
TRANSACTIONS, LABELS = 400, 60


@pytest.fixture(scope="module")
def town(shop: Shop) -> Iterator[Town]:
    with make_town(shop) as made:
        yield made


@pytest.fixture(scope="module")
def engine(shop: Shop) -> Iterator[Engine]:
    node = shop.mesh.a
    with containerd(shop.mesh, node, hook_of(node, "--optional")) as made:
        yield made


@pytest.mark.parametrize("how", ["id", "annotations", "labels"])
def test_a_container_of_ctr(shop: Shop, engine: Engine, how: str, family: Family) -> None:
    """In a network namespace of its own, by its id, by what its runtime is told, and by what only containerd knows."""
    told = {"role": "box", "place": shop.mesh.place.directory.name}
    annotations, labels = (told, {}) if how == "annotations" else ({}, told)
    with (
        Pod(shop.mesh, shop.mesh.a, "box", NUMBER) as pod,
        Ctr(engine, pod, annotations=annotations, **labels) as container,
    ):
        selectors: dict[str, Any] = {"containerId": container.id} if how == "id" else {"containerLabels": told}
        with boxed(shop, selectors=selectors, addresses=[pod.v4, pod.v6]):
            wait_enrolled(shop, pod.inode)
            talks_as_box(shop, container, family)


def test_a_container_in_the_network_of_the_host(shop: Shop, engine: Engine, family: Family) -> None:
    with Pod(shop.mesh, shop.mesh.a, "box", NUMBER) as pod:
        container = Ctr(engine, pod)
        container.network = ("--net-host",)
        with container, boxed(shop, selectors={"containerId": container.id}, ports=[SERVER_PORT + 1]):
            eventually(lambda: _cgroups(shop, "box"), what="the box is enrolled")
            since = shop.mesh.b.access_position()
            with shop.server.serve(http_hello):
                assert container.get(shop.server.address(family), PORT, "/x") == "you asked: GET /x HTTP/1.1"
            lines = eventually(lambda: shop.mesh.b.access(since=since, direction="inbound", dst_workload="server"))
            assert {line["src.identity"] for line in lines} == {identity("box")}


@pytest.mark.parametrize("how", ["uid", "annotations", "labels"])
def test_a_pod_from_its_first_connection_on(shop: Shop, engine: Engine, town: Town, how: str, family: Family) -> None:
    """The only act of its container is a connection that would reach the server past the mesh as well. The agent stands
    still while the pod comes: without the hook the container would not wait for it.
    """
    mesh, since, uid = shop.mesh, shop.mesh.a.access_position(), str(uuid.uuid4())
    box = resources.workload("box", mesh.a.name, selectors=_selectors(how, uid))
    with town.serve("near", greet_and_close) as server, mesh.applied(box):
        eventually(lambda: _cgroups(shop, "box") is not None, what="the agent knows of the workload")
        with stopped(mesh.a), Sandbox(engine, uid) as pod:
            pod.create("nc", family.form(town.near.v4, town.near.v6), str(SERVER_PORT))
            starting = threading.Thread(target=pod.start)
            starting.start()
            record = f"*.containers/{pod.container}.json"
            records = Path(mesh.a.settings["NODEMESH_RUN_DIR"])
            eventually(lambda: list(records.glob(record)) or not starting.is_alive(), what="the hook waits")
            assert starting.is_alive() and not server.connections, "the container did not wait for the agent"
            go_on(mesh.a)
            eventually(lambda: len(server.connections) == 1, within=20, what="the container has connected")
            starting.join()
            counted(shop, town, since, 1)


def go_on(node: Node) -> None:
    """Let the agent run on."""
    assert node.agent is not None
    node.agent.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def stopped(node: Node) -> Iterator[None]:
    """Its manager, which captures cgroups, stands still until it may go on, at the end of the block at the latest."""
    assert node.agent is not None
    node.agent.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        go_on(node)


def test_what_is_read_beside_containerd_is_of_one_transaction(engine: Engine) -> None:
    """It writes as fast as it can: each transaction gives the labels of a namespace, some pages of them, one number."""
    service = "/containerd.services.namespaces.v1.Namespaces/"
    done = threading.Event()

    def put(number: int, method: str = "Update") -> None:
        labels = cri.Map({f"label-{place}": f"{number:0200}" for place in range(LABELS)})
        cri.call(engine.socket, method, {1: {1: "written", 2: labels}}, service)

    def write() -> None:
        try:
            for number in range(TRANSACTIONS):
                put(number)
        finally:
            done.set()

    put(0, "Create")
    writer = threading.Thread(target=write)
    writer.start()
    path, seen = engine.place / "root" / DATABASE, set[bytes]()
    while not done.is_set():
        with contextlib.suppress(BlockingIOError):
            bucket = _inside(Bucket.root(read_beside_writer(path)), b"v1", b"written", b"labels")
            values = {value for _, value in bucket.values()}
            assert len(values) == 1, "pages of two transactions"
            seen |= values
    writer.join()
    assert len(seen) > TRANSACTIONS / 20, "it was read while it was written to"
    cri.call(engine.socket, "Delete", {1: "written"}, service)


def _inside(bucket: Bucket, *path: bytes) -> Bucket:
    for key in path:
        found = bucket.bucket(key)
        assert found is not None, key
        bucket = found
    return bucket


def _selectors(how: str, uid: str) -> dict[str, Any]:
    if how == "uid":
        return {"podUid": uid}
    if how == "labels":  # as kubelet gives them; they are in containerd's database alone
        return {"containerLabels": {"io.kubernetes.container.name": "web", "io.kubernetes.pod.uid": uid}}
    return {"containerLabels": {"io.kubernetes.cri.container-name": "web", "io.kubernetes.cri.sandbox-uid": uid}}


def _cgroups(shop: Shop, name: str) -> list[int] | None:
    rows = [row for row in debug(shop.mesh.a.outside, "/debug/workloads") if row["name"] == name]
    return [cgroup for row in rows for cgroup in row["cgroups"]] if rows else None
