"""Plaintext that arrives at a workload's port: refused, given to the agent, or let in; and who is not plaintext."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from control.wire.address import SocketAddress, packed_ip
from nodeagent.capture.clients import ClientTable
from nodeagent.capture.inbound import InboundGuard
from nodeagent.loader.abi import PortFlag, PortMode
from nodeagent.loader.maps import EnrolledCgroups, Tagged
from nodeagent.loader.ports import ANYWHERE, OwnKey, PortEntry, PortKey
from nodeagent.namespaces.handle import Namespace
from tests.kernel.conftest import CLIENT_SECONDS, FAMILIES, Family, Node, connect, workload

V4 = FAMILIES[0]
PORT, STEER_PORT = 8080, 15006


class Guarded:
    """A node whose namespace is guarded, and a workload that listens on every address of port 8080."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.lab = node.lab
        node.mesh()
        self.namespace = Namespace(os.dup(node.lab.netns))
        self.guard = InboundGuard(node.capture._pins)
        node.lab.stack.callback(self._close)
        node.lab.stack.callback(self.namespace.close)
        assert self.guard.guard([self.namespace]) == []
        self.server = node.lab.made_in(node.app, partial(listener, "::", PORT))
        self.agent = node.lab.cgroup("agent")

    def _close(self) -> None:
        self.guard.close()  # whichever it is by then

    def meet(self, mode: int, flags: int = 0, addr: str | None = None, port: int = PORT) -> None:
        """Plaintext to that port (and to no other) is met so."""
        at = packed_ip(addr) if addr else ANYWHERE
        own = {OwnKey(self.node.app.stat().st_ino, self.namespace.cookie, at, port)}
        assert self.guard.apply({PortKey(self.namespace.cookie, at, port): PortEntry(mode, flags)}, own) == []

    def ask(self, cgroup: str, family: Family, ip: str, port: int = PORT) -> dict[str, Any]:
        """Connect from a process there."""
        told: dict[str, Any] = self.lab.client(self.lab.cgroup(cgroup), partial(connect, family, ip, port))
        return told

    def arrived(self, at: socket.socket | None = None) -> bool:
        """Whether a connection waits at the server (or elsewhere); it is taken."""
        where = at or self.server
        where.setblocking(False)
        try:
            where.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    def steer(self) -> dict[str, socket.socket]:
        """The agent's listeners for plaintext."""
        made = {ip: self.lab.listen(ip, STEER_PORT) for ip in ("127.0.0.1", "::1")}
        for ip, handle in made.items():
            self.node.sockets.meet_plaintext(self.namespace.cookie, 6 if ":" in ip else 4, handle.fileno())
        return made

    def count(self, name: str) -> int:
        return self.node.capture.counters()[f"inbound_{name}"]


def listener(address: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((address, port))
    made.listen(16)
    return made


@pytest.fixture
def guarded(node: Node) -> Iterator[Guarded]:
    yield Guarded(node)


def addresses(family: Family) -> tuple[str, str]:
    """One that the mesh may know, and one that only the host does."""
    return family.local, family.loopback


@pytest.mark.parametrize("mode", [PortMode.STRICT, 0, 77], ids=["strict", "no-mode", "unknown-mode"])
def test_strict_refuses_plaintext_on_every_address(guarded: Guarded, family: Family, mode: int) -> None:
    guarded.meet(mode)
    for ip in addresses(family):
        with pytest.raises(ConnectionRefusedError):
            guarded.ask("plain", family, ip)
    assert not guarded.arrived()
    assert guarded.count("refused") == 2


def test_strict_lets_the_agent_in_and_nobody_from_its_port(guarded: Guarded, family: Family) -> None:
    guarded.meet(PortMode.STRICT)
    source = (family.local, 42001)

    def speak() -> None:
        table = ClientTable(guarded.node.capture.pin_dir)
        with socket.socket(socket.AF_INET6 if ":" in family.local else socket.AF_INET) as mine:
            mine.settimeout(CLIENT_SECONDS)
            mine.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            mine.bind(source)
            table.announce(mine.fileno(), SocketAddress("192.0.2.7", 1))
            mine.connect((family.local, PORT))

    guarded.lab.client(guarded.agent, speak)
    assert guarded.arrived()
    with pytest.raises(ConnectionRefusedError):
        guarded.lab.client(
            guarded.node.plain, lambda: connect(family, family.local, PORT, (family.address(source[0]), source[1]))
        )


def test_disable_and_ports_outside_the_mesh_are_untouched(guarded: Guarded, family: Family) -> None:
    guarded.meet(PortMode.DISABLE)
    other = guarded.lab.made_in(guarded.node.app, partial(listener, "::", PORT + 1))
    for ip in addresses(family):
        guarded.ask("plain", family, ip)
        assert guarded.arrived()
        guarded.ask("plain", family, ip, PORT + 1)
        assert guarded.arrived(other)


def test_the_address_itself_goes_before_any_address(guarded: Guarded, family: Family) -> None:
    cookie = guarded.namespace.cookie
    guarded.guard.apply(
        {
            PortKey(cookie, ANYWHERE, PORT): PortEntry(PortMode.STRICT, 0),
            PortKey(cookie, packed_ip(family.local), PORT): PortEntry(PortMode.DISABLE, 0),
        },
        set(),
    )
    guarded.ask("plain", family, family.local)
    assert guarded.arrived()
    with pytest.raises(ConnectionRefusedError):
        guarded.ask("plain", family, family.loopback)


def test_a_workload_reaches_itself_but_not_its_neighbour(guarded: Guarded, family: Family) -> None:
    guarded.node.local.append(workload("shop/other", "/other"))
    guarded.lab.cgroup("other")
    guarded.node.mesh()
    for mode in (PortMode.STRICT, PortMode.PERMISSIVE):
        guarded.meet(mode)
        guarded.ask("app", family, family.loopback)
        assert guarded.arrived()
        with pytest.raises(ConnectionRefusedError):
            guarded.ask("other", family, family.loopback)
    assert guarded.count("own") == 2


def test_an_earlier_mark_does_not_help(guarded: Guarded, family: Family) -> None:
    """A socket that was refused by its own workload's other port connects to a neighbour's."""
    cookie, app = guarded.namespace.cookie, guarded.node.app.stat().st_ino
    strict = PortEntry(PortMode.STRICT, 0)
    guarded.guard.apply(
        {PortKey(cookie, ANYWHERE, PORT): strict, PortKey(cookie, ANYWHERE, PORT + 7): strict},
        {OwnKey(app, guarded.namespace.cookie, ANYWHERE, PORT + 7)},
    )

    def twice() -> tuple[int, int]:
        with socket.socket(family.af) as client:
            first = client.connect_ex((family.address(family.loopback), PORT + 7))
            return first, client.connect_ex((family.address(family.loopback), PORT))

    assert guarded.lab.client(guarded.node.app, twice) == (errno.ECONNREFUSED, errno.ECONNREFUSED)
    assert guarded.count("own") == 1 and guarded.count("refused") == 1


def test_probes_of_the_node_are_let_in_where_the_port_says_so(guarded: Guarded, family: Family) -> None:
    guarded.node.local.append(workload("shop/other", "/other"))
    guarded.lab.cgroup("other")
    guarded.node.mesh()
    guarded.guard.know({packed_ip(family.local)})
    for mode in (PortMode.STRICT, PortMode.PERMISSIVE):
        guarded.meet(mode, PortFlag.PROBES)
        for ip in addresses(family):
            guarded.ask("plain", family, ip)
            assert guarded.arrived()
            with pytest.raises(ConnectionRefusedError):
                guarded.ask("other", family, ip)
    assert guarded.count("probe") == 4


def test_a_probe_may_come_from_any_address_of_the_host(guarded: Guarded, family: Family) -> None:
    """Also from one that is not of the workload's namespace; who is not the host is refused."""
    guarded.meet(PortMode.STRICT, PortFlag.PROBES)
    source = (family.address(family.local), 0)

    def probe() -> None:
        guarded.lab.client(guarded.node.plain, lambda: connect(family, family.loopback, PORT, source))

    with pytest.raises(ConnectionRefusedError):
        probe()
    assert guarded.guard.know({packed_ip(family.local)}) == []
    probe()
    assert guarded.arrived()
    assert guarded.guard.know(set()) == []
    with pytest.raises(ConnectionRefusedError):
        probe()


def test_permissive_gives_plaintext_to_the_agent(guarded: Guarded, family: Family) -> None:
    guarded.meet(PortMode.PERMISSIVE)
    steered = guarded.steer()
    for ip in addresses(family):
        told = guarded.ask("plain", family, ip)
        connection, source = steered[family.loopback].accept()
        with connection:
            assert connection.getsockname()[:2] == (ip, PORT), "the agent sees what was asked for"
            assert source[1] == told["name"][1]
        assert told["peer"] == (family.address(ip), PORT), "and the client what it asked for"
    assert not guarded.arrived()
    assert guarded.count("steered") == 2


def test_permissive_without_an_agent_refuses(guarded: Guarded, family: Family) -> None:
    guarded.meet(PortMode.PERMISSIVE)
    for handle in guarded.steer().values():
        handle.close()
    with pytest.raises(ConnectionRefusedError):
        guarded.ask("plain", family, family.local)
    assert guarded.count("no_agent") == 1


def test_udp_to_the_same_port_is_untouched(guarded: Guarded, family: Family) -> None:
    guarded.meet(PortMode.STRICT)

    def both() -> bytes:
        with (
            socket.socket(family.af, socket.SOCK_DGRAM) as server,
            socket.socket(family.af, socket.SOCK_DGRAM) as client,
        ):
            server.settimeout(CLIENT_SECONDS)
            server.bind((family.address(family.local), PORT))
            client.sendto(b"untouched", (family.address(family.local), PORT))
            return server.recv(16)

    assert guarded.lab.client(guarded.node.plain, both) == b"untouched"


def test_connections_that_stand_go_on(guarded: Guarded, family: Family) -> None:
    guarded.meet(PortMode.DISABLE)

    def hold(handle: socket.socket) -> socket.socket:
        handle.connect((family.address(family.local), PORT))
        return handle

    client = guarded.lab.made_in(guarded.node.plain, lambda: hold(socket.socket(family.af)))
    guarded.server.settimeout(CLIENT_SECONDS)
    with guarded.server.accept()[0] as server:
        guarded.meet(PortMode.STRICT)
        client.sendall(b"still here")
        assert server.recv(16) == b"still here"


def test_the_guard_outlives_the_agent_and_is_taken_over(guarded: Guarded) -> None:
    guarded.meet(PortMode.STRICT)
    guarded.guard.close()
    with pytest.raises(ConnectionRefusedError):
        guarded.ask("plain", V4, V4.local)
    guarded.guard = InboundGuard(guarded.node.capture._pins)
    assert guarded.guard.ports[PortKey(guarded.namespace.cookie, ANYWHERE, PORT)] == PortEntry(PortMode.STRICT, 0)
    assert guarded.guard.guard([guarded.namespace]) == []
    with pytest.raises(ConnectionRefusedError):
        guarded.ask("plain", V4, V4.local)
    assert guarded.guard.guard([]) == []
    guarded.ask("plain", V4, V4.local)
    assert guarded.arrived()
    assert not list((guarded.node.capture.pin_dir / "links").glob("inbound_*"))


def test_a_detached_program_is_attached_again(guarded: Guarded) -> None:
    guarded.meet(PortMode.STRICT)
    links = guarded.guard._links
    links._sys.detach(links._held[guarded.namespace.cookie])
    guarded.ask("plain", V4, V4.local)
    assert guarded.arrived(), "it was detached"
    (problem,) = guarded.guard.guard([guarded.namespace])
    assert "attached again" in problem
    with pytest.raises(ConnectionRefusedError):
        guarded.ask("plain", V4, V4.local)


def test_a_namespace_that_is_gone_leaves_no_pin(guarded: Guarded) -> None:
    found: list[Namespace] = []
    made = guarded.lab._make_netns()
    found.append(Namespace(os.dup(made)))
    assert guarded.guard.guard([guarded.namespace, found[0]]) == []
    assert len(guarded.guard.namespaces) == 2
    found[0].close()
    assert guarded.guard.guard([guarded.namespace]) == []
    assert [pin.name for pin in (guarded.node.capture.pin_dir / "links").glob("inbound_*")] == [
        f"inbound_{guarded.namespace.cookie}"
    ]


def test_of_two_workloads_with_one_port_neither_passes_for_the_other(guarded: Guarded, family: Family) -> None:
    """Their servers are at two addresses: what is one's own is decided with the address."""
    app, other = guarded.node.app.stat().st_ino, guarded.lab.cgroup("other").stat().st_ino
    cookie = guarded.namespace.cookie
    enrolled = EnrolledCgroups(guarded.node.capture.pin_dir)
    enrolled.put(other, Tagged(1, 0))
    enrolled.close()
    strict = PortEntry(PortMode.STRICT, 0)
    places = {app: packed_ip(family.local), other: packed_ip(family.loopback)}
    assert guarded.guard.apply(
        {PortKey(cookie, addr, PORT): strict for addr in (*places.values(), ANYWHERE)},
        {OwnKey(cgroup, cookie, addr, PORT) for cgroup, addr in places.items()},
    ) == []  # fmt: skip
    guarded.ask("app", family, family.local)
    guarded.ask("other", family, family.loopback)
    unspecified = {"v4": "0.0.0.0", "v6": "::", "mapped": "0.0.0.0"}[family.name]
    guarded.ask("other", family, unspecified)  # which is loopback
    for cgroup, ip in (("app", family.loopback), ("app", unspecified), ("other", family.local)):
        with pytest.raises(ConnectionRefusedError):
            guarded.ask(cgroup, family, ip)
    assert guarded.count("own") == 3
