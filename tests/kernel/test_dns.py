"""DNS questions of enrolled processes reach the agent's ports, and the answers seem to come from whom was asked."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any

import pytest

from control.wire.address import SocketAddress, packed_ip
from nodeagent.loader.abi import DNS_SLOTS, CgroupFlag
from nodeagent.loader.maps import EnrolledCgroups, Tagged
from nodeagent.loader.questions import Asked, Askers
from tests.kernel.conftest import CAPTURE_PORT, CLIENT_SECONDS, Family, Lab, Node, connect

DNS_PORT = 15053
RESOLVERS = {"v4": [f"192.0.2.{n}" for n in range(1, 7)], "v6": [f"2001:db8::{n}" for n in range(1, 7)]}
RESOLVERS["mapped"] = RESOLVERS["v4"]


class Agent:
    """The agent's DNS listeners, played by the test."""

    def __init__(self, node: Node, family: Family) -> None:
        self.node, self.family = node, family
        self.askers = Askers(node.capture.pin_dir)
        node.lab.stack.callback(self.askers.close)
        self.sockets = [udp(node.lab, family.loopback, DNS_PORT + slot) for slot in range(DNS_SLOTS)]
        for slot, listener in enumerate(self.sockets):
            at = SocketAddress(family.loopback, DNS_PORT + slot)
            node.sockets.meet(node.cookie, at, listener.fileno(), udp=True)
        node.lab.inside(lambda: node.capture.set_listeners(CAPTURE_PORT, DNS_PORT))

    def answer(self, slot: int = 0) -> tuple[bytes, Asked | None]:
        """Answer the next question; what it was, and what the kernel knows of it."""
        question, source = self.sockets[slot].recvfrom(512)
        asked = self.find(source, slot)
        self.sockets[slot].sendto(question.upper(), source)
        return question, asked

    def find(self, source: tuple[Any, ...], slot: int = 0) -> Asked | None:
        """What the kernel knows of a socket that asks from there."""
        return self.askers.find(self.node.cookie, packed_ip(source[0]), source[1], slot)


def udp(lab: Lab, address: str, port: int) -> socket.socket:
    def make() -> socket.socket:
        listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        listener.settimeout(CLIENT_SECONDS)
        listener.bind((address, port))
        return listener

    listener = lab.inside(make)
    lab.stack.callback(listener.close)
    return listener


@pytest.fixture
def agent(node: Node, family: Family) -> Agent:
    node.mesh()
    return Agent(node, family)


def asking(family: Family, resolvers: list[str], connected: bool) -> Callable[[], list[tuple[bytes, str]]]:
    """A client that asks each resolver from one socket, and tells what it heard from whom."""

    def run() -> list[tuple[bytes, str]]:
        heard = []
        with socket.socket(family.af, socket.SOCK_DGRAM) as client:
            client.settimeout(CLIENT_SECONDS)
            for number, resolver in enumerate(resolvers):
                where = (family.address(resolver), 53)
                if connected:
                    client.connect(where)
                    assert client.getpeername()[:2] == where
                    client.send(b"q%d" % number)
                else:
                    client.sendto(b"q%d" % number, where)
            for _ in resolvers[-1:] if connected else resolvers:
                data, source = client.recvfrom(512)
                heard.append((data, source[0]))
        return heard

    return run


def ip_of(asked: Asked | None) -> str:
    assert asked is not None
    return socket.inet_ntop(socket.AF_INET6, asked.addr).removeprefix("::ffff:")


@pytest.mark.parametrize("connected", [True, False], ids=["connected", "sendto"])
def test_a_question_reaches_the_agent_which_knows_the_resolver(agent: Agent, family: Family, connected: bool) -> None:
    resolver = RESOLVERS[family.name][0]
    started = agent.node.lab.start(agent.node.app, asking(family, [resolver], connected))
    question, asked = agent.answer()
    assert question == b"q0"
    assert ip_of(asked) == resolver
    assert asked is not None and asked.port == 53 and asked.cgroup_id == agent.node.app.stat().st_ino
    assert finish(started) == [(b"Q0", family.address(resolver))]
    assert agent.node.capture.counters()["dns_taken"] == 1


def test_several_resolvers_of_one_socket_are_told_apart(agent: Agent, family: Family) -> None:
    """As musl asks: all of them at once, and it looks at who answered."""
    resolvers = RESOLVERS[family.name][:3]
    started = agent.node.lab.start(agent.node.app, asking(family, resolvers, False))
    for slot, resolver in reversed(list(enumerate(resolvers))):
        question, asked = agent.answer(slot)
        assert question == b"q%d" % slot
        assert ip_of(asked) == resolver
    heard = finish(started)
    assert sorted(heard) == [(b"Q%d" % n, family.address(r)) for n, r in enumerate(resolvers)]


def test_a_socket_that_connects_again_is_known_by_its_last_resolver(agent: Agent, family: Family) -> None:
    resolvers = RESOLVERS[family.name][:3]
    started = agent.node.lab.start(agent.node.app, asking(family, resolvers, True))
    questions = [agent.sockets[0].recvfrom(512) for _ in resolvers]
    assert ip_of(agent.find(questions[-1][1])) == resolvers[-1]
    agent.sockets[0].sendto(b"Q2", questions[-1][1])
    assert finish(started) == [(b"Q2", family.address(resolvers[-1]))]


def test_a_socket_that_asks_the_whole_world_asks_it_itself(agent: Agent, family: Family) -> None:
    """A recursive resolver: after DNS_SLOTS of them its questions take the way that they always took."""

    def ask() -> list[int]:
        results = []
        with socket.socket(family.af, socket.SOCK_DGRAM) as client:
            for resolver in RESOLVERS[family.name]:
                try:
                    client.sendto(b"q", (family.address(resolver), 53))
                    results.append(0)
                except OSError as error:
                    results.append(error.errno or -1)
        return results

    results = agent.node.lab.client(agent.node.app, ask)
    assert results[:DNS_SLOTS] == [0] * DNS_SLOTS
    assert set(results[DNS_SLOTS:]) == {errno.ENETUNREACH}, "the lab has no way there: it was left alone"
    assert agent.node.capture.counters()["dns_no_slot"] == len(results) - DNS_SLOTS


def test_while_no_agent_answers_questions_go_where_they_are_sent(node: Node, family: Family) -> None:
    node.mesh()
    node.lab.inside(lambda: node.capture.set_listeners(CAPTURE_PORT, DNS_PORT))
    server = udp(node.lab, family.local, 53)

    def ask() -> tuple[bytes, str]:
        with socket.socket(family.af, socket.SOCK_DGRAM) as client:
            client.settimeout(CLIENT_SECONDS)
            client.connect((family.address(family.local), 53))
            client.send(b"q")
            data, source = client.recvfrom(512)
            return data, source[0]

    started = node.lab.start(node.app, ask)
    question, source = server.recvfrom(512)
    server.sendto(question.upper(), source)
    assert finish(started) == (b"Q", family.address(family.local))
    assert node.capture.counters()["dns_no_agent"] >= 1  # a mapped address passes both families' hooks


@pytest.mark.parametrize("who", ["not enrolled", "opted out"])
def test_who_does_not_take_part_is_left_alone(agent: Agent, family: Family, who: str) -> None:
    node = agent.node
    if who == "opted out":
        view = EnrolledCgroups(node.capture.pin_dir)
        view.put(node.app.stat().st_ino, Tagged(1, CgroupFlag.NO_DNS))
        view.close()
    server = udp(node.lab, family.local, 53)
    started = node.lab.start(node.app if who == "opted out" else node.plain, asking(family, [family.local], True))
    question, source = server.recvfrom(512)
    server.sendto(question.upper(), source)
    assert finish(started) == [(b"Q0", family.address(family.local))]
    assert node.capture.counters()["dns_taken"] == 0


def test_a_tcp_connection_to_a_resolver_is_captured(agent: Agent, family: Family) -> None:
    resolver = RESOLVERS[family.name][0]
    told = agent.node.lab.client(agent.node.app, lambda: connect(family, resolver, 53))
    flow = agent.node.take(family)
    assert flow is not None and (flow.destination.ip, flow.destination.port) == (resolver, 53)
    assert told["peer"] == (family.address(resolver), 53)
    assert agent.node.capture.counters()["dns_tcp"] == 1


def test_without_an_agent_tcp_goes_to_the_resolver(agent: Agent, family: Family) -> None:
    for listener in agent.node.listeners.values():
        listener.close()
    server = agent.node.lab.listen(family.local, 53)
    agent.node.lab.client(agent.node.app, lambda: connect(family, family.local, 53))
    server.accept()[0].close()


def test_nobody_else_takes_the_agents_dns_ports(agent: Agent, family: Family) -> None:
    agent.node.guard()
    for listener in agent.sockets:
        listener.close()

    def bind() -> str:
        with socket.socket(family.af, socket.SOCK_DGRAM) as thief:
            thief.bind(
                (family.address(family.loopback) if family.name != "mapped" else "::ffff:127.0.0.1", DNS_PORT + 3)
            )
        return "bound"

    for cgroup, uid in ((agent.node.app, 0), (agent.node.plain, 65534), (agent.node.plain, 0)):
        with pytest.raises(PermissionError):
            agent.node.lab.client(cgroup, bind, uid)


def finish(started: tuple[int, int]) -> Any:
    from tests.kernel.conftest import finish as wait

    return wait(started)
