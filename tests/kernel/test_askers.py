"""Whose a question is: the record of a UDP socket that asks is found by all that identifies it, and goes with it."""

from __future__ import annotations

import errno
import socket
import struct
import subprocess
from typing import Any

import pytest

from control.wire.address import packed_ip
from nodeagent.loader.maps import EnrolledCgroups, Tagged
from nodeagent.namespaces.reserved import SYSCTL
from nodeagent.namespaces.sources import Sources
from tests.kernel.conftest import CAPTURE_PORT, CLIENT_SECONDS, Family, Node, finish
from tests.kernel.test_dns import DNS_PORT, RESOLVERS, Agent, ip_of, udp

PORT = 40123
IP_PKTINFO, IPV6_PKTINFO = 8, 50
RANGE = SYSCTL.with_name("ip_local_port_range")


@pytest.fixture
def agent(node: Node, family: Family) -> Agent:
    node.mesh()
    node.guard()
    return Agent(node, family)


def second_address(family: Family) -> str:
    return "127.0.0.2" if family.loopback == "127.0.0.1" else family.local


def asker(family: Family, resolver: str, *, at: str = "", port: int = PORT, connect: bool = False) -> socket.socket:
    made = socket.socket(family.af, socket.SOCK_DGRAM)
    made.settimeout(CLIENT_SECONDS)
    made.bind((family.address(at) if at else "", port))
    if connect:
        made.connect((family.address(resolver), 53))
    else:
        made.sendto(b"q", (family.address(resolver), 53))
    return made


@pytest.mark.parametrize("connected", [False, True], ids=["sendto", "connected"])
def test_two_sockets_of_one_port_are_two(agent: Agent, family: Family, connected: bool) -> None:
    """At two addresses, of two workloads: each question goes to the resolver that its own socket asked."""
    one, two = RESOLVERS[family.name][:2]
    node = agent.node
    other = node.lab.cgroup("other")
    enrolled = EnrolledCgroups(node.capture.pin_dir)
    enrolled.put(other.stat().st_ino, Tagged(1, 0))
    enrolled.close()
    first = node.lab.made_in(node.app, lambda: asker(family, one, at=family.loopback, connect=connected))
    second = node.lab.made_in(other, lambda: asker(family, two, at=second_address(family), connect=connected))
    if connected:
        first.send(b"q")
        second.send(b"q")
    found = {}
    for _ in range(2):
        _, source = agent.sockets[0].recvfrom(10)
        asked = agent.find(source)
        assert asked is not None
        found[source[0].removeprefix("::ffff:")] = (ip_of(asked), asked.cgroup_id)
    assert found == {
        family.loopback: (one, node.app.stat().st_ino), second_address(family): (two, other.stat().st_ino),
    }  # fmt: skip


@pytest.mark.parametrize("connected", [False, True], ids=["sendto", "connected"])
def test_a_record_goes_with_its_socket(agent: Agent, family: Family, connected: bool) -> None:
    resolver = RESOLVERS[family.name][0]
    made = agent.node.lab.made_in(agent.node.app, lambda: asker(family, resolver, connect=connected))
    assert agent.find((family.loopback, PORT)) is not None
    made.close()
    assert agent.find((family.loopback, PORT)) is None


def test_a_socket_that_connects_elsewhere_asks_nobody(agent: Agent, family: Family) -> None:
    resolver = RESOLVERS[family.name][0]
    made = agent.node.lab.made_in(agent.node.app, lambda: asker(family, resolver))

    def go_on() -> None:
        made.connect((family.address(family.local), 9))

    agent.node.lab.client(agent.node.app, go_on)
    assert agent.find((family.loopback, PORT)) is None


def test_who_shares_an_address_and_port_with_another_workload_asks_directly(agent: Agent, family: Family) -> None:
    """Nobody could tell whose a question is: SO_REUSEADDR lets any two users have one UDP port."""
    node = agent.node
    other = node.lab.cgroup("other")
    enrolled = EnrolledCgroups(node.capture.pin_dir)
    enrolled.put(other.stat().st_ino, Tagged(1, 0))
    enrolled.close()
    one, two = RESOLVERS[family.name][:2]

    def shared() -> socket.socket:
        made = socket.socket(family.af, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((family.address(family.loopback), PORT))
        return made

    def ask(resolver: str) -> socket.socket:
        made = shared()
        try:
            made.sendto(b"q", (family.address(resolver), 53))
        except OSError as error:
            assert error.errno in (errno.ENETUNREACH, errno.EINVAL, errno.EHOSTUNREACH)
        return made

    node.lab.made_in(node.app, lambda: ask(one))
    node.lab.made_in(other, lambda: ask(two))
    asked = agent.find((family.loopback, PORT))
    assert ip_of(asked) == one
    assert node.capture.counters()["dns_shared"] == 1


def test_nobody_asks_in_anothers_name_by_sending_to_the_agent_itself(agent: Agent, family: Family) -> None:
    """From a port whose socket asked before, in any way: only what the hooks send there is a question."""
    where = (family.address(family.loopback), DNS_PORT)

    def send() -> int:
        with socket.socket(family.af, socket.SOCK_DGRAM) as client:
            try:
                client.sendto(b"x", where)
            except OSError as error:
                return error.errno or -1
            return 0

    def connect() -> int:
        with socket.socket(family.af, socket.SOCK_DGRAM) as client:
            return client.connect_ex(where)

    for cgroup in (agent.node.app, agent.node.plain):
        for attempt in (send, connect):
            assert agent.node.lab.client(cgroup, attempt) == errno.EPERM
    assert agent.node.capture.counters()["dns_stray"] == 4


def test_a_connected_socket_cannot_name_another_source(agent: Agent, family: Family) -> None:
    """IP_PKTINFO would have its question come from a neighbour's address and port."""
    resolver = RESOLVERS[family.name][0]
    v6 = family.loopback == "::1"
    other = "::1" if v6 else "127.0.0.2"  # the socket itself asks from the namespace's address
    if v6:
        message = (socket.IPPROTO_IPV6, IPV6_PKTINFO, socket.inet_pton(socket.AF_INET6, other) + bytes(4))
    else:
        message = (socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=I4s4s", 0, socket.inet_aton(other), bytes(4)))

    def ask() -> None:
        with socket.socket(family.af, socket.SOCK_DGRAM) as client:
            client.connect((family.address(resolver), 53))
            client.sendmsg([b"q"], [message])

    agent.node.lab.client(agent.node.app, ask)
    _, source = agent.sockets[0].recvfrom(10)
    assert source[0] != other


def test_a_socket_that_asked_connects_to_anywhere_afterwards(agent: Agent, family: Family) -> None:
    """The address that it was given on the way to the agent is the namespace's own, not loopback's."""
    node = agent.node

    def cable() -> None:
        for command in (
            "link add mesh9 type veth peer name mesh8", "link set mesh8 up", "link set mesh9 up",
            "addr add 10.8.8.8/24 dev mesh9",
            "addr add fd08::8/64 dev mesh9 nodad",
        ):  # fmt: skip
            subprocess.run(["ip", *command.split()], check=True)

    node.lab.inside(cable)
    own, elsewhere = ("10.8.8.8", "10.8.8.9") if family.loopback == "127.0.0.1" else ("fd08::8", "fd08::9")
    node.lab.inside(
        lambda: node.capture.serve(node.cookie, CAPTURE_PORT, DNS_PORT, source=Sources("10.8.8.8", "fd08::8"))
    )

    def ask() -> tuple[str, str]:
        with socket.socket(family.af, socket.SOCK_DGRAM) as client:
            client.settimeout(CLIENT_SECONDS)
            client.connect((family.address(RESOLVERS[family.name][0]), 53))
            client.send(b"q")
            assert client.recv(10) == b"Q"
            asked_from = client.getsockname()[0]
            client.connect((family.address(elsewhere), 9))
            return asked_from, client.getsockname()[0]

    started = node.lab.start(node.app, ask)
    _, asked = agent.answer()
    assert ip_of(asked) == RESOLVERS[family.name][0]
    assert finish(started) == (family.address(own), family.address(own))


def test_an_address_that_is_gone_is_done_without(agent: Agent, family: Family) -> None:
    node = agent.node
    node.lab.inside(
        lambda: node.capture.serve(node.cookie, CAPTURE_PORT, DNS_PORT, source=Sources("10.8.8.8", "fd08::8"))
    )

    def ask() -> bytes:
        with socket.socket(family.af, socket.SOCK_DGRAM) as client:
            client.settimeout(CLIENT_SECONDS)
            client.connect((family.address(RESOLVERS[family.name][0]), 53))
            client.send(b"q")
            return client.recv(10)

    started = node.lab.start(node.app, ask)
    agent.answer()
    assert finish(started) == b"Q"


def test_the_port_of_a_socket_that_asks_is_of_the_namespaces_range(agent: Agent, family: Family) -> None:
    resolver = RESOLVERS[family.name][0]

    def ask() -> set[int]:
        ports = set()
        for _ in range(60):
            with socket.socket(family.af, socket.SOCK_DGRAM) as client:
                client.connect((family.address(resolver), 53))
                ports.add(client.getsockname()[1])
        return ports

    agent.node.lab.inside(lambda: RANGE.write_text("15050 15059\n"))
    assert agent.node.lab.client(agent.node.app, ask) <= {*range(15050, 15053), *range(15057, 15060)}


def test_a_link_local_resolver_keeps_its_scope(agent: Agent, family: Family) -> None:
    if family.name != "v6":
        return
    index = agent.node.lab.inside(lambda: socket.if_nametoindex("lo"))

    def ask(address: tuple[Any, ...], kind: int) -> None:
        with socket.socket(socket.AF_INET6, kind) as client:
            client.settimeout(CLIENT_SECONDS)
            client.connect(address)
            client.send(b"q")

    agent.node.lab.client(agent.node.app, lambda: ask(("fe80::1", 53, 0, index), socket.SOCK_DGRAM))
    # it may be closed by now; ask again from a socket that stays
    made = agent.node.lab.made_in(agent.node.app, lambda: _connected(("fe80::1", 53, 0, index)))
    asked = agent.find(made.getsockname())
    assert asked is not None and (ip_of(asked), asked.scope) == ("fe80::1", index)
    agent.node.lab.client(agent.node.app, lambda: ask(("fe80::1", 53, 0, index), socket.SOCK_STREAM))
    flow = agent.node.take(family)
    assert flow is not None and (flow.destination.ip, flow.scope) == ("fe80::1", index)


def _connected(address: tuple[Any, ...]) -> socket.socket:
    made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    made.connect(address)
    return made


def test_other_sockets_hear_nothing_of_it(agent: Agent, family: Family) -> None:
    """A datagram from the agent's port to a socket that did not ask stays what it is."""
    client = udp(agent.node.lab, family.loopback, PORT)
    agent.sockets[0].sendto(b"x", (family.loopback, PORT))
    assert client.recvfrom(10)[1][1] == DNS_PORT
    assert packed_ip(family.loopback)
