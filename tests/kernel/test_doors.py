"""What is captured, asked, or arrives at the agent's ports goes to a socket of a live worker, or nowhere: a port number
proves nothing.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Iterator

import pytest

from control.wire.address import SocketAddress
from nodeagent.capture.doors import WorkerSockets
from nodeagent.capture.inbound import InboundGuard
from nodeagent.loader.abi import Crew
from nodeagent.loader.doors import CrewCounts
from tests.kernel.conftest import CAPTURE_PORT, CLIENT_SECONDS, FAMILIES, Family, Node, connect, finish
from tests.kernel.test_dns import DNS_PORT, RESOLVERS, udp

V4 = FAMILIES[0]
TUNNEL_PORT = 15008
SO_ATTACH_REUSEPORT_CBPF = 51


@pytest.fixture
def guarded(node: Node) -> Iterator[Node]:
    """A node whose namespace is guarded, sk_lookup too, and that has one worker's listeners."""
    inbound = InboundGuard(node.capture._pins)
    node.lab.stack.callback(inbound.close)
    assert inbound.guard([node.guard()]) == []
    yield node


def accepts(listener: socket.socket) -> bool:
    listener.setblocking(False)
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def bound(node: Node, ip: str, port: int, *options: int, backlog: int = 16) -> socket.socket:
    """A listener that no hook sees: it was there before the guard, say."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET)
        for option in options:
            made.setsockopt(socket.SOL_SOCKET, option, 1)
        made.bind((ip, port))
        made.listen(backlog)
        return made

    made = node.lab.inside(make)
    node.lab.stack.callback(made.close)
    return made


def test_a_captured_connection_never_reaches_who_took_the_dead_agents_port(node: Node, family: Family) -> None:
    """Without sk_lookup, even: the redirect itself wants the worker's socket."""
    node.mesh((family.virtual, 80))
    for listener in node.listeners.values():
        listener.close()
    thief = bound(node, family.loopback, CAPTURE_PORT)
    with pytest.raises(ConnectionRefusedError):
        node.lab.client(node.app, lambda: connect(family, family.virtual, 80))
    assert not accepts(thief)
    assert node.capture.counters()["refused_no_agent"] == 1


def test_a_question_never_reaches_who_took_the_dead_agents_port(node: Node, family: Family) -> None:
    node.mesh()
    node.lab.inside(lambda: node.capture.set_listeners(CAPTURE_PORT, DNS_PORT))
    thief = udp(node.lab, family.loopback, DNS_PORT)
    thief.setblocking(False)

    def ask() -> int:
        with socket.socket(family.af, socket.SOCK_DGRAM) as client:
            try:
                client.sendto(b"secret", (family.address(RESOLVERS[family.name][0]), 53))
            except OSError:
                return 1
            return 0

    node.lab.client(node.app, ask)
    with pytest.raises(BlockingIOError):
        thief.recv(100)
    assert node.capture.counters()["dns_no_agent"] == 1


def test_arrivals_go_past_a_reuseport_group_to_the_workers_socket(guarded: Node, family: Family) -> None:
    """A member of the group, with a program that gives everything to it, gets nothing."""
    guarded.mesh((family.virtual, 80))
    guarded.listeners[family.loopback].close()
    mine = bound(guarded, family.loopback, CAPTURE_PORT, socket.SO_REUSEPORT)
    thief = bound(guarded, family.loopback, CAPTURE_PORT, socket.SO_REUSEPORT)
    second = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 1))  # return 1: the second member
    thief.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, struct.pack("@HP", 1, ctypes.addressof(second)))
    guarded.sockets.meet(guarded.cookie, SocketAddress(family.loopback, CAPTURE_PORT), mine.fileno())
    for _ in range(20):
        guarded.lab.client(guarded.app, lambda: connect(family, family.virtual, 80))
        assert accepts(mine)
    assert not accepts(thief)


def test_a_listener_need_not_be_bound_to_the_port_that_it_serves(guarded: Node, family: Family) -> None:
    """An old connection may have the port. Whoever listens at another address of it gets nothing either."""
    guarded.listeners[family.loopback].close()
    mine = bound(guarded, family.loopback, 0)
    guarded.sockets.meet(guarded.cookie, SocketAddress(family.loopback, CAPTURE_PORT), mine.fileno())
    guarded.mesh((family.virtual, 80))
    told = guarded.lab.client(guarded.app, lambda: connect(family, family.virtual, 80))
    assert told["peer"] == (family.address(family.virtual), 80)
    assert accepts(mine)
    other = bound(guarded, family.local, CAPTURE_PORT)
    with pytest.raises(ConnectionRefusedError):
        guarded.lab.client(guarded.plain, lambda: connect(family, family.local, CAPTURE_PORT))
    assert not accepts(other)
    assert guarded.capture.counters()["door_nobody"] == 1


def test_a_listener_on_every_address_takes_both_families(guarded: Node, family: Family) -> None:
    mine = bound(guarded, "::", TUNNEL_PORT, socket.SO_REUSEPORT)
    thief = bound(guarded, family.local, TUNNEL_PORT, socket.SO_REUSEPORT)
    guarded.sockets.meet(guarded.cookie, SocketAddress("::", TUNNEL_PORT), mine.fileno())
    guarded.lab.client(guarded.plain, lambda: connect(family, family.local, TUNNEL_PORT))
    assert accepts(mine)
    assert not accepts(thief), "an exact address would go before"


def test_new_connections_go_to_the_first_workers_and_past_those_that_are_gone(guarded: Node) -> None:
    crew = CrewCounts(guarded.capture.pin_dir)
    guarded.lab.stack.callback(crew.close)
    crew.put(Crew.WORKERS, 3)
    crew.put(Crew.SPREAD, 2)
    guarded.listeners[V4.loopback].close()
    at = SocketAddress(V4.loopback, CAPTURE_PORT)
    listeners = []
    for worker in range(3):
        table = WorkerSockets(guarded.capture.pin_dir, worker)
        listeners.append(bound(guarded, V4.loopback, 0, backlog=64))
        table.meet(guarded.cookie, at, listeners[-1].fileno())
        table.close()
    guarded.mesh((V4.virtual, 80))

    def dial() -> None:
        for _ in range(40):
            connect(V4, V4.virtual, 80)

    guarded.lab.client(guarded.app, dial)
    counts = [sum(iter(lambda listener=each: accepts(listener), False)) for each in listeners]
    assert counts[2] == 0 and counts[0] > 0 and counts[1] > 0 and sum(counts) == 40
    listeners[0].close()
    listeners[1].close()
    guarded.lab.client(guarded.app, dial)
    assert sum(iter(lambda: accepts(listeners[2]), False)) == 40


def test_datagrams_to_the_dns_ports_are_the_workers(guarded: Node, family: Family) -> None:
    """Also where somebody has the port on every address, and answers sooner."""
    mine = udp(guarded.lab, family.loopback, DNS_PORT)
    guarded.sockets.meet(guarded.cookie, SocketAddress(family.loopback, DNS_PORT), mine.fileno(), udp=True)
    guarded.lab.inside(lambda: guarded.capture.set_listeners(CAPTURE_PORT, DNS_PORT))
    guarded.mesh()

    def ask() -> bytes:
        with socket.socket(family.af, socket.SOCK_DGRAM) as client:
            client.settimeout(CLIENT_SECONDS)
            client.sendto(b"q", (family.address(RESOLVERS[family.name][0]), 53))
            return client.recv(10)

    started = guarded.lab.start(guarded.app, ask)
    question, source = mine.recvfrom(10)
    mine.sendto(question.upper(), source)
    assert finish(started) == b"Q"
    mine.close()
    thief = udp(guarded.lab, family.loopback, DNS_PORT)
    thief.setblocking(False)

    def stray() -> int:
        with socket.socket(socket.AF_INET6 if ":" in family.loopback else socket.AF_INET, socket.SOCK_DGRAM) as client:
            return client.sendto(b"x", (family.loopback, DNS_PORT))

    guarded.lab.inside(stray)  # no hook sees it, as if from outside of the agent's cgroups
    with pytest.raises(BlockingIOError):
        thief.recv(10)


def test_a_listener_that_dies_takes_its_place_with_it(guarded: Node, family: Family) -> None:
    """SIGKILL of a worker: not a moment in which the redirect leads to where somebody else may come."""
    guarded.mesh((family.virtual, 80))
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        mine = bound(guarded, family.loopback, 0)
        guarded.sockets.meet(guarded.cookie, SocketAddress(family.loopback, CAPTURE_PORT), mine.fileno())
        os.write(writer, b".")
        os.read(os.pipe()[0], 1)
    guarded.listeners[family.loopback].close()
    os.read(reader, 1)
    guarded.lab.client(guarded.app, lambda: connect(family, family.virtual, 80))
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    for end in (reader, writer):
        os.close(end)
    with pytest.raises(ConnectionRefusedError):
        guarded.lab.client(guarded.app, lambda: connect(family, family.virtual, 80))
