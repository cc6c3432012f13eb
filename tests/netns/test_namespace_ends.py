"""Namespaces and cgroups that go away: a clear event each, nothing leaks, nothing else is disturbed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns import reading, resources
from tests.netns.conftest import MakeShop
from tests.netns.lab import Node, eventually
from tests.netns.pods import Pod, remove_cgroup
from tests.netns.servers import echo, read_all, roundtrip
from tests.netns.shop import PORT, TARGET_PORT, Family
from tests.netns.spot import Spot
from tests.netns.town import VIP, Town, place_of, wait_served, workload_of
from tests.netns.town import town as make_town
from tests.support.pace import patient

CHURN = 200
AT_A_TIME = 20
DEATHS = 4
DIALS = 20
"""Connections after each, of which the new worker has some."""


@pytest.fixture(scope="module")
def town(make_shop: MakeShop) -> Iterator[Town]:
    with make_town(make_shop()) as made:
        yield made


def held(node: Node) -> int:
    """Namespaces that the agent holds, besides the node's."""
    return int(reading.debug(node.outside, "/debug/capture")["namespaces"]["held"])


def is_reset(connection: socket.socket) -> bool:
    """Whether it ended with a reset; TimeoutError if it did not end."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        return True
    return False


@contextlib.contextmanager
def live(town: Town, source: Spot, name: str, family: Family) -> Iterator[tuple[socket.socket, socket.socket]]:
    """An open connection that has carried bytes: the client's socket, and the server's."""
    with town.serve(name, echo) as server, town.dial(source, name, family) as connection:
        assert roundtrip(connection, b"alive") == b"alive"
        yield connection, server.connections[-1]


def move(spot: Spot, cgroup: Path) -> None:
    """Every process of the spot leaves its cgroup."""
    for pid in (spot.cgroup / "cgroup.procs").read_text().split():
        (cgroup / "cgroup.procs").write_text(pid)


@pytest.mark.parametrize("name", ["near", "far"], ids=["same-node", "cross-node"])
def test_the_last_enrolled_process_leaves_a_namespace_and_keeps_its_connection(
    town: Town, name: str, family: Family
) -> None:
    """It would go on under an identity that it has lost."""
    walker, node = town.walker, town.mesh.a
    since = node.access_position()
    walker.outside.stay()
    with live(town, walker.spot, name, family) as (connection, _):
        move(walker.spot, walker.outside.cgroup)
        assert is_reset(connection)
        lines = eventually(lambda: node.access(since=since, reason="namespace-gone"), what="the event in the log")
        assert {line["src.workload"] for line in lines} == {"walker"}
        eventually(lambda: place_of(node, "walker") == [], what="the namespace was let go")
    move_home(walker.spot)
    wait_served(walker)


def move_home(spot: Spot) -> None:
    """The spot's process enters its cgroup again, which is made anew if need be."""
    spot.cgroup.mkdir(exist_ok=True)
    for pid in spot.pids:
        (spot.cgroup / "cgroup.procs").write_text(str(pid))


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_cgroup_is_removed_under_a_live_connection(town: Town, side: str, family: Family) -> None:
    """In the node's own namespace: its process went elsewhere and took the connection along."""
    mesh, node = town.mesh, town.mesh.a
    behind = town.shop.local
    source, leaving = (town.shop.other, town.shop.other) if side == "client" else (town.shop.client, behind.spot)
    since = node.access_position()
    with behind.serve(echo), source.connect(behind.address(family), PORT) as connection:
        assert roundtrip(connection, b"alive") == b"alive"
        move(leaving, node.outside.cgroup)
        remove_cgroup(leaving.cgroup)
        assert is_reset(connection)
        assert eventually(lambda: node.access(since=since, reason="cgroup-gone"), what="the event in the log")
    move_home(leaving)
    mesh.wait_enrolled(leaving)


def test_a_program_that_ends_in_order_is_not_cut_short(town: Town, family: Family) -> None:
    """It sends, closes and is gone, with its cgroup, before its peer has read: every byte arrives, then the end."""
    data, node = os.urandom(65_536), town.mesh.a
    spot = node.spot("shop/brief")
    script = (
        "import socket, sys; s = socket.create_connection((sys.argv[1], int(sys.argv[2])));"
        " s.sendall(sys.stdin.buffer.read()); s.close()"
    )
    spot.cgroup.mkdir()
    with town.mesh.applied(resources.workload("brief", node.name)), town.shop.server.spot.listen(TARGET_PORT) as server:
        town.mesh.wait_enrolled(spot)
        since = town.mesh.b.access_position()
        done = spot.run("python3", "-c", script, town.shop.server.address(family), str(PORT), stdin=data)
        assert done.returncode == 0, done.stderr
        remove_cgroup(spot.cgroup)
        eventually(lambda: "brief" not in _with_cgroups(node), what="the end of the cgroup was noticed")
        accepted, _ = server.accept()
        with accepted:
            assert read_all(accepted) == data
        lines = eventually(lambda: town.mesh.b.access(since=since, src_workload="brief"), what="the log line")
        assert {line["reason"] for line in lines} == {"ok"}


def _with_cgroups(node: Node) -> set[str]:
    return {row["name"] for row in reading.debug(node.outside, "/debug/workloads") if row["cgroups"]}


def test_a_container_is_killed_with_its_namespace(town: Town, family: Family) -> None:
    """The peer is told at once; other pods go on."""
    mesh = town.mesh
    with Pod(mesh, mesh.a, "doomed", 9) as doomed, mesh.applied(workload_of(doomed)):
        mesh.wait_enrolled(doomed.spot)
        wait_served(doomed)
        with live(town, town.walker.spot, "near", family) as (other, _):
            program = doomed.spot.spawn("python3", "-c", HOLD, family.form(*VIP["near"]), str(PORT))
            inode = doomed.inode
            eventually(lambda: _flows(mesh.a, "doomed"), what="its connection is open")
            doomed.remove()
            program.wait()
            eventually(lambda: not _flows(mesh.a, "doomed"), within=20, what="its connection ended")
            eventually(lambda: held(mesh.a) == 2, within=20, what="its namespace was let go")
            assert roundtrip(other, b"still here") == b"still here"
        eventually(lambda: not _held_inodes(mesh.a) & {inode}, within=20, what="every worker let it go")


HOLD = (
    "import socket, sys, time; s = socket.create_connection((sys.argv[1], int(sys.argv[2])));"
    " s.sendall(b'x'); s.recv(1); time.sleep(60)"
)


def _flows(node: Node, name: str) -> list[object]:
    flows = reading.debug(node.outside, "/debug/flows")["flows"]
    return [flow for flow in flows if flow["source"] and flow["source"].startswith(f"shop/{name}@")]


def _held_inodes(node: Node) -> set[int]:
    """Network namespaces that any descriptor of the agent refers to."""
    found = set()
    for pid in node.agent_processes():
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    target = os.readlink(link)
                    if target.startswith("net:["):
                        found.add(int(target[5:-1]))
    return found


def test_a_worker_and_a_manager_that_are_killed_take_the_namespaces_over(town: Town, family: Family) -> None:
    node = town.mesh.a
    manager = next(pid for pid in node.agent_processes() if node.agent is not None and pid == node.agent.pid)
    worker = next(pid for pid in node.agent_processes() if pid != manager)
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: len(_listening(town.walker)) == 2, within=20, what="both workers listen in the namespace")
    _serves(town, family)
    node.stop_agent(signal.SIGKILL)
    with pytest.raises(OSError):
        town.dial(town.walker.spot, "near", family)
    node.start_agent()
    node.wait_ready()
    wait_served(town.walker, town.near)
    _serves(town, family)


def test_the_death_of_a_worker_refuses_nobody(town: Town, family: Family) -> None:
    """The other worker goes on, and the new one accepts nothing before it has entered the namespaces."""
    node = town.mesh.a

    def dial() -> None:
        with town.dial(town.walker.spot, "near", family) as connection:
            assert roundtrip(connection, b"served") == b"served"

    with town.serve("near", echo):
        for _ in range(DEATHS):
            eventually(lambda: len(_listening(town.walker)) == 2, within=20, what="both workers listen")
            worker = next(pid for pid in node.agent_processes() if node.agent is not None and pid != node.agent.pid)
            os.kill(worker, signal.SIGKILL)
            eventually(lambda: reading.gone(worker), what="the worker is gone")  # noqa: B023 - it is asked at once
            deadline = time.monotonic() + patient(20)
            while len(_listening(town.walker)) < 2:
                dial()  # whatever fails here fails the test
                assert time.monotonic() < deadline, "a worker is started in its place"
            for _ in range(DIALS):
                dial()


def _listening(pod: Pod) -> set[str]:
    """Who listens on the capture port in the pod's namespace, by inode of the socket."""
    shown = subprocess.run(
        pod.site.enter("ss", "-Hltne", "src", "127.0.0.1:15001"), capture_output=True, text=True, check=True
    )
    return {word for word in shown.stdout.split() if word.startswith("ino:")}


def _serves(town: Town, family: Family) -> None:
    def served() -> bool:
        with live(town, town.walker.spot, "near", family):
            return True

    eventually(served, within=20, what="the pod is served again")


def _counts(node: Node) -> dict[str, object]:
    """Whatever could leak."""
    samples = {sample.name: sample.value for sample in node.metrics() if not sample.labels}
    capture = reading.debug(node.outside, "/debug/capture")
    names = (
        "nodemesh_network_namespaces",
        "nodemesh_worker_namespaces",
        "nodemesh_worker_tasks",
        "nodemesh_live_flows",
    )
    return {
        **{name: samples[name] for name in names},
        "listeners": len(capture["listeners"]),
        "enrolled": capture["enrolled"],
        "descriptors": node.descriptors(),
        "namespaces": sorted(_held_inodes(node)),
    }


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_hundred_namespaces_come_and_go(town: Town) -> None:
    """Each with a program that talks through the mesh; afterwards nothing of them is left, in no count."""
    node, mesh = town.mesh.a, town.mesh
    with mesh.applied(resources.workload("swarm", node.name)), town.shop.local.serve(echo):
        swarm = mesh.spot_of(node, "swarm")
        mesh.wait_enrolled(swarm)
        _swarm(node, swarm, 2)  # whatever is made once is made now
        eventually(lambda: held(node) == 2, within=20, what="only the town's namespaces are left")
        before = eventually(lambda: _settled(node), within=20, what="counts stand still")
        for _ in range(CHURN // AT_A_TIME):
            _swarm(node, swarm, AT_A_TIME)
        eventually(lambda: _counts(node) == before, within=30, what=f"as before: {before}; now {_counts(node)}")


def _settled(node: Node) -> dict[str, object] | None:
    first = _counts(node)
    return first if first["nodemesh_live_flows"] == 0 and _counts(node) == first else None


TALK = f"""
import socket, sys, time
until = time.monotonic() + 60
while True:
    try:
        with socket.create_connection((sys.argv[1], {PORT}), timeout=20) as s:
            s.sendall(b"hello")
            assert s.recv(5) == b"hello"
            break
    except PermissionError:
        assert time.monotonic() < until, "not served"
        time.sleep(0.05)
"""


def _swarm(node: Node, swarm: Spot, count: int) -> None:
    """So many programs at a time, each in a namespace and a cgroup of its own."""
    programs = []
    for number in range(count):
        nested = swarm.cgroup / str(number)
        nested.mkdir()
        talk = 'ip link set lo up && exec python3 -c "$0" "$1"'
        command = swarm.command("unshare", "--net", "sh", "-c", talk, TALK, "240.240.1.1")
        command[command.index(str(swarm.cgroup))] = str(nested)
        programs.append((subprocess.Popen(command, env=node.mesh.env), nested))
    for program, nested in programs:
        assert program.wait(90) == 0
        remove_cgroup(nested)
