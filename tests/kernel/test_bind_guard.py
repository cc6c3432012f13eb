"""The agent's ports are nobody else's in a network namespace that it serves, whether or not it lives."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from contextlib import closing
from functools import partial

import pytest

from nodeagent.capture import controller
from nodeagent.capture.doors import SocketMarks
from nodeagent.loader.maps import Counters
from nodeagent.namespaces.reserved import SYSCTL, listed, parsed, reserved
from tests.kernel.conftest import CAPTURE_PORT, Family, Lab, Node

NOBODY = 65534
TCP_PORTS = (15000, 15001, 15006, 15008, 15020, 15021)
UDP_PORTS = (15053, 15054, 15055, 15056)
DOORS = [
    *((port, socket.SOCK_STREAM) for port in TCP_PORTS),
    *((port, socket.SOCK_DGRAM) for port in UDP_PORTS),
]  # fmt: skip
RANGE = SYSCTL.with_name("ip_local_port_range")


@pytest.fixture
def deserted(node: Node) -> Node:
    """A node whose agent is dead; what it guarded stays guarded."""
    node.guard()
    for listener in node.listeners.values():
        listener.close()
    node.mesh()
    return node


def bind(family: Family, ip: str, port: int, kind: int = socket.SOCK_STREAM, *options: int) -> int:
    """In a client: the errno of binding, 0 if it was allowed."""
    with socket.socket(family.af, kind) as server:
        for option in options:
            server.setsockopt(socket.SOL_SOCKET, option, 1)
        try:
            server.bind((ip, port))
        except OSError as error:
            return error.errno or -1
    return 0


def every_door(bind_one: Callable[[int, int], int]) -> dict[int, int]:
    return {port: bind_one(port, kind) for port, kind in DOORS}


def test_nobody_is_bound_to_a_port_of_the_agent(deserted: Node, family: Family) -> None:
    anywhere = "0.0.0.0" if family.af == socket.AF_INET else "::"
    for ip in (family.address(family.loopback), family.address(family.local), anywhere):
        for cgroup, uid in ((deserted.plain, NOBODY), (deserted.plain, 0), (deserted.app, 0)):
            found = deserted.lab.client(
                cgroup, lambda ip=ip: every_door(lambda port, kind: bind(family, ip, port, kind)), uid
            )
            assert set(found.values()) == {errno.EPERM}, found
    assert deserted.capture.counters()["bind_refused"] == 3 * 3 * len(DOORS)


def test_nobody_joins_a_group_of_the_agents_listeners(deserted: Node, family: Family) -> None:
    """Of the same user as the agent, and without capabilities: SO_REUSEPORT asks for no more."""
    ip = family.address(family.loopback)
    members = [deserted.lab.inside(partial(_member, family, ip, *door)) for door in DOORS]
    found = deserted.lab.client(
        deserted.plain, lambda: every_door(lambda port, kind: bind(family, ip, port, kind, socket.SO_REUSEPORT))
    )
    assert set(found.values()) == {errno.EPERM}
    for member in members:
        member.close()


def _member(family: Family, ip: str, port: int, kind: int) -> socket.socket:
    made = socket.socket(family.af, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind((ip, port))
    return made


def test_the_agent_marks_its_sockets_and_is_bound(deserted: Node, family: Family) -> None:
    ip = family.address(family.loopback)

    def bind_marked() -> str:
        with closing(SocketMarks(deserted.capture.pin_dir)) as marks, socket.socket(family.af) as server:
            marks.mark(server.fileno())
            server.bind((ip, CAPTURE_PORT))
            return "bound"

    assert deserted.lab.client(deserted.plain, bind_marked) == "bound"


def test_other_ports_and_protocols_are_free(deserted: Node, family: Family) -> None:
    loopback = family.address(family.loopback)
    for port, kind in (
        (0, socket.SOCK_STREAM),
        (CAPTURE_PORT + 1, socket.SOCK_STREAM),
        (CAPTURE_PORT, socket.SOCK_DGRAM),
        (UDP_PORTS[0], socket.SOCK_STREAM),
    ):
        got = deserted.lab.client(deserted.app, lambda port=port, kind=kind: bind(family, loopback, port, kind), NOBODY)
        assert got == 0
    assert deserted.capture.counters()["bind_refused"] == 0


def test_where_no_agent_serves_the_ports_are_free(node: Node, family: Family) -> None:
    for listener in node.listeners.values():
        listener.close()
    loopback = family.address(family.loopback)
    assert node.lab.client(node.app, lambda: bind(family, loopback, CAPTURE_PORT), NOBODY) == 0


def autobound(how: str, family: Family, wanted: tuple[int, ...]) -> set[int]:
    """In a client: the ports that as many sockets as there are in the range got without bind()."""
    kept: list[socket.socket] = []
    for _ in range(40):
        made = socket.socket(family.af, socket.SOCK_STREAM if how == "listen" else socket.SOCK_DGRAM)
        kept.append(made)
        try:
            if how == "listen":
                made.listen(1)
            elif how == "sendto":
                made.sendto(b"", (family.address(family.loopback), 9))
            else:
                made.connect((family.address(family.loopback), 9))
        except OSError:
            break
    return {made.getsockname()[1] for made in kept} & set(wanted)


@pytest.mark.parametrize("how", ["listen", "sendto", "connect"])
def test_nobody_is_given_a_port_of_the_agent_without_bind(deserted: Node, family: Family, how: str) -> None:
    wanted = TCP_PORTS if how == "listen" else UDP_PORTS
    first = wanted[0] - 4 if how != "listen" else CAPTURE_PORT - 4
    deserted.lab.inside(lambda: RANGE.write_text(f"{first} {first + 15}\n"))
    assert deserted.lab.client(deserted.plain, lambda: autobound(how, family, wanted), NOBODY) == set()


def test_the_agents_own_ephemeral_ports_are_no_doors(deserted: Node, family: Family) -> None:
    """An outgoing connection from 15008 would keep the agent from listening there."""
    server = deserted.lab.listen(family.local, 9)

    def dial() -> set[int]:
        made = [socket.create_connection((family.local, 9)) for _ in range(12)]
        return {each.getsockname()[1] for each in made}

    deserted.lab.inside(lambda: RANGE.write_text("15000 15024\n"))
    assert not deserted.lab.client(deserted.plain, dial) & set(TCP_PORTS)
    server.close()


def test_reservations_are_added_told_and_given_back(lab: Lab) -> None:
    node = Node(lab)
    lab.inside(lambda: SYSCTL.write_text("8080,15001,20000-20010\n"))
    namespace = node.guard()
    ports = {*TCP_PORTS, *UDP_PORTS}
    assert reserved(namespace) == ports | {8080, *range(20000, 20011)}
    assert set(node.capture.status().reserved[namespace.cookie]) == ports - {15001}, "15001 was somebody's already"
    node.guard()  # as the next agent does
    assert set(node.capture.status().reserved[namespace.cookie]) == ports - {15001}
    node.capture.close()
    removed = controller.unload(lab.settings)
    # the lab's namespace has no process and no name: what unload cannot find stays, and is told nowhere
    assert not [line for line in removed if "ip_local_reserved_ports" in line]
    node.capture = controller.Capture.open(lab.settings)


def test_unload_gives_back_what_an_agent_reserved(lab: Lab) -> None:
    node = Node(lab)
    lab.inside(lambda: SYSCTL.write_text("8080,15001\n"))
    namespace = node.guard()
    pid = os.fork()
    if pid == 0:
        from tests.kernel.conftest import setns

        setns(lab.netns)
        os.read(os.pipe()[0], 1)  # until it is killed
        os._exit(0)
    try:
        _wait_inside(pid, namespace.inode)
        node.capture.close()
        removed = controller.unload(lab.settings)
        assert any("ip_local_reserved_ports" in line and str(namespace.inode) in line for line in removed), removed
        assert reserved(namespace) == {8080, 15001}
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    node.capture = controller.Capture.open(lab.settings)


def _wait_inside(pid: int, inode: int) -> None:
    from tests.netns.lab import eventually

    eventually(lambda: os.stat(f"/proc/{pid}/ns/net").st_ino == inode, what="the process is inside")


def test_releasing_a_namespace_gives_everything_back(node: Node, family: Family) -> None:
    namespace = node.guard()
    for listener in node.listeners.values():
        listener.close()
    node.capture.release(namespace)
    assert reserved(namespace) == set()
    loopback = family.address(family.loopback)
    assert node.lab.client(node.app, lambda: bind(family, loopback, CAPTURE_PORT), NOBODY) == 0
    with closing(Counters(node.capture.pin_dir)) as counters:
        assert counters.read()["bind_refused"] == 0


@pytest.mark.parametrize("text", ["", "8080", "1-3", "1-3,5,9148-9150,65535"])
def test_lists_of_ports_read_as_they_are_written(text: str) -> None:
    assert listed(parsed(text)) == text
