"""Old connections are left alone unless somebody asks: then those that went past the mesh are reset when a program
joins it, those that the mesh carries when it leaves, and never any other.
"""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.netns.lab import BIN, Node, eventually
from tests.netns.pods import Pod
from tests.netns.resources import workload
from tests.netns.servers import echo, read_all, roundtrip
from tests.netns.shop import TARGET_PORT, Family, Shop
from tests.netns.spot import IO_SECONDS, Spot
from tests.netns.town import wait_served, workload_of

OUTSIDE_PORT = 9999
SERVED_PORT = 9998
PROBED_PORT = 9997
HOLDS = """import socket, sys
held = socket.create_connection((sys.argv[1], 8080))
try:
    held.recv(1)
except OSError:
    sys.exit(3)
"""
RESET = {"nodemesh.io/old-connections": "reset"}


def verb(node: Node, *argv: str) -> tuple[int, dict[str, Any]]:
    """Exit status and what it told."""
    done = node.outside.run(BIN / "nodeagent", "reset", *argv, "-o", "json", env=node.settings)
    assert done.stdout, done.stderr.decode()
    told: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, told


def is_reset(connection: socket.socket) -> bool:
    """Whoever held it is told ECONNABORTED, the other end ECONNRESET."""
    try:
        read_all(connection)
    except (ConnectionAbortedError, ConnectionResetError):
        return True
    return False


def lives(one: socket.socket, other: socket.socket) -> bool:
    """Whether bytes go both ways, between the ends of a connection."""
    one.sendall(b"there")
    other.sendall(b"back")
    return other.recv(100) == b"there" and one.recv(100) == b"back"


@contextlib.contextmanager
def pair(client: Spot, address: str, server: Spot, port: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A plain connection: the client's end and the server's."""
    with server.listen(port) as listener, client.connect(address, port) as near:
        far, _ = listener.accept()
        with far:
            far.settimeout(IO_SECONDS)
            yield near, far


def test_joining_resets_what_went_past_the_mesh(shop: Shop, family: Family) -> None:
    """As a client and as a server; what goes elsewhere, what others have and what the mesh carries stays."""
    a, b = shop.mesh.a, shop.mesh.b
    spot = shop.mesh.spot_of(a, f"old-{family.name.lower()}")
    there, here = family.form(b.v4, b.v6), family.form(a.v4, a.v6)
    joins = workload(spot.cgroup.name, a.name, labels=RESET, ports=[SERVED_PORT, PROBED_PORT], probePorts=[PROBED_PORT])
    with contextlib.ExitStack() as stack:
        stack.enter_context(shop.server.serve(echo))
        out = stack.enter_context(spot.connect(there, TARGET_PORT))
        assert roundtrip(out, b"past") == b"past"
        came, accepted = stack.enter_context(pair(b.outside, here, spot, SERVED_PORT))
        elsewhere = stack.enter_context(pair(spot, there, b.outside, OUTSIDE_PORT))
        probe = stack.enter_context(pair(a.outside, here, spot, PROBED_PORT))
        carried = stack.enter_context(shop.dial(shop.server, family))
        assert roundtrip(carried, b"carried") == b"carried"
        stranger = stack.enter_context(a.outside.connect(there, TARGET_PORT))
        stack.enter_context(shop.mesh.applied(joins))
        for each in (out, came, accepted):
            assert is_reset(each)
        assert lives(*elsewhere) and lives(*probe)
        assert roundtrip(carried, b"still") == b"still" and roundtrip(stranger, b"still") == b"still"
        with shop.dial(shop.server, family, source=spot) as new:
            assert roundtrip(new, b"through the mesh") == b"through the mesh"
            assert "old connections" not in str(a.nodeagent("workloads", "-o", "json"))
        told = [s for s in a.metrics() if s.name == "nodemesh_connections_reset_total" and s.labels["way"] == "past"]
        assert told and told[0].value >= 2


def test_a_program_that_came_from_elsewhere(shop: Shop, family: Family) -> None:
    """It connected when it was in no cgroup of the workload; it holds the connection, so it is the workload's now."""
    a, b = shop.mesh.a, shop.mesh.b
    spot = shop.mesh.spot_of(a, f"moved-{family.name.lower()}")
    there = family.form(b.v4, b.v6)
    with shop.server.serve(echo) as server:
        before = len(server.connections)
        process = a.outside.spawn(sys.executable, "-c", HOLDS, there)
        eventually(lambda: len(server.connections) > before, what="it is connected")
        (spot.cgroup / "cgroup.procs").write_text(str(process.pid))
        with shop.mesh.applied(workload(spot.cgroup.name, a.name, labels=RESET)):
            assert process.wait(IO_SECONDS) == 3


def test_leaving_resets_what_the_mesh_carries(shop: Shop, family: Family) -> None:
    """Of the client that leaves, and of nobody else; as a server it stays what it was."""
    a = shop.mesh.a
    spot = shop.mesh.spot_of(a, f"parts-{family.name.lower()}")
    name = spot.cgroup.name
    inside = workload(name, a.name, labels=RESET, ports=[SERVED_PORT])
    outside = workload(name, a.name, labels={**RESET, "nodemesh.io/capture": "off"}, ports=[SERVED_PORT])
    with shop.server.serve(echo), spot.listen(SERVED_PORT) as listener, shop.mesh.applied(inside):
        shop.mesh.wait_enrolled(spot)
        address = family.form(a.v4, a.v6)
        with (
            shop.dial(shop.server, family, source=spot) as mine,
            shop.dial(shop.server, family) as another,
            shop.client.connect(address, SERVED_PORT) as client,
        ):
            served, _ = listener.accept()
            with served:
                assert roundtrip(mine, b"in") == b"in" and roundtrip(another, b"in") == b"in"
                assert lives(client, served)
                shop.mesh.apply(outside)
                assert is_reset(mine)
                assert roundtrip(another, b"in") == b"in" and lives(client, served)


def test_the_verb_says_first_and_resets_then(shop: Shop, family: Family) -> None:
    a, b = shop.mesh.a, shop.mesh.b
    spot = shop.mesh.spot_of(a, f"asked-{family.name.lower()}")
    there, here = family.form(b.v4, b.v6), family.form(a.v4, a.v6)
    name = f"shop/{spot.cgroup.name}"
    with contextlib.ExitStack() as stack:
        stack.enter_context(shop.server.serve(echo))
        out = stack.enter_context(spot.connect(there, TARGET_PORT))
        came, accepted = stack.enter_context(pair(b.outside, here, spot, SERVED_PORT))
        elsewhere = stack.enter_context(pair(spot, there, b.outside, OUTSIDE_PORT))
        stack.enter_context(shop.mesh.applied(workload(spot.cgroup.name, a.name, ports=[SERVED_PORT])))
        shop.mesh.wait_enrolled(spot)
        carried = stack.enter_context(shop.dial(shop.server, family, source=spot))
        assert roundtrip(out, b"left alone") == b"left alone" and lives(came, accepted)
        status, told = verb(a, name, "--dry-run")
        assert status == 0 and [row["what"] for row in told["connections"]] == ["would reset"] * 2, told
        assert roundtrip(out, b"left alone") == b"left alone" and lives(came, accepted)
        status, told = verb(a, name)
        assert status == 0 and [row["what"] for row in told["connections"]] == ["reset"] * 2, told
        assert all(is_reset(each) for each in (out, came, accepted))
        assert roundtrip(carried, b"carried") == b"carried" and lives(*elsewhere)
        assert verb(a, name, "--carried")[0] == 0
        assert is_reset(carried) and lives(*elsewhere)
        assert verb(a, name, "--all")[0] == 0
        assert all(is_reset(each) for each in elsewhere)


def test_in_a_namespace_of_its_own(shop: Shop, family: Family) -> None:
    """What the node itself has at the same time, to the same place, stays."""
    a = shop.mesh.a
    with Pod(shop.mesh, a, "aged", 7) as pod, contextlib.ExitStack() as stack:
        gate = family.form(*pod.gate)
        stack.enter_context(shop.local.serve(echo))
        out = stack.enter_context(pod.spot.connect(gate, TARGET_PORT))
        theirs = stack.enter_context(a.outside.connect(gate, TARGET_PORT))
        inner = stack.enter_context(pair(a.outside, family.form(pod.v4, pod.v6), pod.spot, SERVED_PORT))
        assert roundtrip(out, b"past") == b"past" and lives(*inner)
        aged = workload_of(pod)
        aged["spec"]["ports"] = [SERVED_PORT]
        stack.enter_context(shop.mesh.applied(aged))
        wait_served(pod)
        status, told = verb(a, "shop/aged", "--all")
        assert status == 0 and {row["what"] for row in told["connections"]} == {"reset"}, told
        assert is_reset(out) and all(is_reset(each) for each in inner)
        assert roundtrip(theirs, b"stays") == b"stays"


def test_multipath_connections(shop: Shop) -> None:
    """The kernel ends their subflow. It waits for another one (for a minute, unless told otherwise) before it tells the
    program.
    """
    a, b = shop.mesh.a, shop.mesh.b
    spot = shop.mesh.spot_of(a, "old-multipath")
    waiting = "/proc/sys/net/mptcp/close_timeout"  # Linux 6.7
    usual = a.outside.run("sh", "-c", f"cat {waiting} && echo 1 > {waiting}").stdout
    with (
        b.outside.listen(OUTSIDE_PORT, kind="mptcp") as listener,
        spot.connect(b.v4, OUTSIDE_PORT, how="mptcp") as near,
    ):
        far, _ = listener.accept()
        with far, shop.mesh.applied(workload("old-multipath", a.name)):
            shop.mesh.wait_enrolled(spot)
            status, told = verb(a, "shop/old-multipath", "--all")
            assert (status, [row["what"] for row in told["connections"]]) == (0, ["reset"])
            if usual:
                with pytest.raises(OSError) as error:
                    read_all(near)
                assert error.value.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.ECONNRESET)
                a.outside.run("sh", "-c", f"cat > {waiting}", stdin=usual)


def test_it_is_roots_to_reset(shop: Shop) -> None:
    a = shop.mesh.a
    with shop.server.serve(echo), shop.dial(shop.server) as carried:
        nobody = ("setpriv", "--reuid=65534", "--clear-groups", BIN / "nodeagent")
        done = a.outside.run(*nobody, "reset", "shop/client", "--carried", env=a.settings)
        assert done.returncode == 1 and b"root" in done.stderr, done
        assert roundtrip(carried, b"stays") == b"stays"
