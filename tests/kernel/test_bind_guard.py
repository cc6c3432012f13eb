"""While no agent listens, nobody else may take the capture port and be handed other workloads' plaintext."""

from __future__ import annotations

import errno
import socket

import pytest

from tests.kernel.conftest import CAPTURE_PORT, Family, Node

NOBODY = 65534


@pytest.fixture
def deserted(node: Node) -> Node:
    """A node whose agent is dead; its record stays."""
    for listener in node.listeners.values():
        listener.close()
    node.mesh()
    return node


def bind(family: Family, ip: str, port: int, kind: int = socket.SOCK_STREAM) -> int:
    """In a client: the errno of binding, 0 if it was allowed."""
    with socket.socket(family.af, kind) as server:
        try:
            server.bind((ip, port))
        except OSError as error:
            return error.errno or -1
    return 0


def test_another_user_cannot_take_the_port(deserted: Node, family: Family) -> None:
    anywhere = "0.0.0.0" if family.af == socket.AF_INET else "::"
    for ip in (family.address(family.loopback), anywhere):
        assert deserted.lab.client(deserted.plain, lambda ip=ip: bind(family, ip, CAPTURE_PORT), NOBODY) == errno.EPERM
    assert deserted.capture.counters()["bind_refused"] == 2


def test_root_in_an_enrolled_cgroup_cannot_either(deserted: Node, family: Family) -> None:
    loopback = family.address(family.loopback)
    assert deserted.lab.client(deserted.app, lambda: bind(family, loopback, CAPTURE_PORT)) == errno.EPERM


def test_the_agent_can(deserted: Node, family: Family) -> None:
    loopback = family.address(family.loopback)
    assert deserted.lab.client(deserted.plain, lambda: bind(family, loopback, CAPTURE_PORT)) == 0


def test_other_ports_and_udp_are_free(deserted: Node, family: Family) -> None:
    loopback = family.address(family.loopback)
    for port, kind in (
        (0, socket.SOCK_STREAM),
        (CAPTURE_PORT + 1, socket.SOCK_STREAM),
        (CAPTURE_PORT, socket.SOCK_DGRAM),
    ):
        got = deserted.lab.client(deserted.app, lambda port=port, kind=kind: bind(family, loopback, port, kind), NOBODY)
        assert got == 0
    assert deserted.capture.counters()["bind_refused"] == 0


def test_where_no_agent_serves_the_port_is_free(deserted: Node, family: Family) -> None:
    deserted.capture.unserve(deserted.cookie)
    loopback = family.address(family.loopback)
    assert deserted.lab.client(deserted.app, lambda: bind(family, loopback, CAPTURE_PORT), NOBODY) == 0
