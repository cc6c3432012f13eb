"""Where enrolled processes may go: EgressPolicy in the kernel, whatever the socket, whatever the call."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest

from control.wire.discovery import EgressMode
from nodeagent.capture.controller import Capture
from nodeagent.capture.egress import EgressTable, Refused
from nodeagent.loader.egress import EgressCounts
from tests.kernel.conftest import CAPTURE_PORT, CLIENT_SECONDS, Family, Node, connect, destinations

PORT = 7000
MSG_FASTOPEN = 0x20000000
IPPROTO_UDPLITE = 136
IPPROTO_MPTCP = 262
SOCK_STREAM, SOCK_DGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


def confine(node: Node, mode: EgressMode = EgressMode.REGISTRY_ONLY) -> None:
    """The egress mode of the workload in ``app``."""
    node.local = [replace(each, egress_mode=mode) for each in node.local]
    node.mesh((family_vip("v4"), 80), (family_vip("v6"), 80))


def family_vip(name: str) -> str:
    return "fd6d:6573:68::10" if name == "v6" else "240.240.0.10"


@pytest.fixture
def confined(node: Node) -> Node:
    confine(node)
    return node


@pytest.fixture
def table(node: Node) -> Iterator[EgressTable]:
    table = EgressTable(node.capture.pin_dir)
    yield table
    table.close()


def counts(node: Node, table: EgressTable) -> EgressCounts:
    return table.counts(node.app.stat().st_ino)


@contextlib.contextmanager
def answering(node: Node, address: str, port: int = PORT) -> Iterator[None]:
    """A TCP server in the lab that accepts, reads to the end and closes."""
    listener = node.lab.listen(address, port)

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(CLIENT_SECONDS)
                with contextlib.suppress(OSError):
                    while connection.recv(4096):
                        pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def sends(family: Family, where: tuple[str, int]) -> dict[str, Callable[[], None]]:
    """Every way in which a program can begin to talk to somebody."""

    def made(kind: int, protocol: int = 0) -> socket.socket:
        made = socket.socket(family.af, kind, protocol)
        made.settimeout(CLIENT_SECONDS)
        return made

    def tcp() -> None:
        with made(SOCK_STREAM) as client:
            client.connect(where)

    def nonblocking() -> None:
        with made(SOCK_STREAM) as client:
            client.setblocking(False)
            result = client.connect_ex(where)
            if result != errno.EINPROGRESS:
                raise OSError(result, os.strerror(result))

    def mptcp() -> None:
        with made(SOCK_STREAM, IPPROTO_MPTCP) as client:
            client.connect(where)

    def fast_open() -> None:
        with made(SOCK_STREAM) as client:
            client.setblocking(True)
            client.sendto(b"data with the SYN", MSG_FASTOPEN, where)

    def fast_open_connect() -> None:
        with made(SOCK_STREAM) as client:
            client.setsockopt(socket.IPPROTO_TCP, 30, 1)  # TCP_FASTOPEN_CONNECT
            client.connect(where)
            client.sendall(b"x")

    def connected() -> None:
        with made(SOCK_DGRAM) as client:
            client.connect(where)
            client.send(b"x")

    def sendto() -> None:
        with made(SOCK_DGRAM) as client:
            client.sendto(b"x", where)

    def sendmsg() -> None:
        with made(SOCK_DGRAM) as client:
            client.sendmsg([b"x"], [], 0, where)

    def past_its_connection() -> None:
        """A socket that is connected to itself sends somewhere else."""
        with made(SOCK_DGRAM) as client:
            client.connect((family.address(family.loopback), PORT))
            client.sendto(b"x", where)

    return {
        "tcp": tcp, "nonblocking": nonblocking, "mptcp": mptcp, "fastopen": fast_open,
        "fastopen-connect": fast_open_connect, "udp-connect": connected, "udp-sendto": sendto, "udp-sendmsg": sendmsg,
        "udp-connected-elsewhere": past_its_connection,
    }  # fmt: skip


WAYS = list(sends(Family("v4", socket.AF_INET, "", "", "", "127.0.0.1"), ("192.0.2.1", 1)))


@pytest.mark.parametrize("way", WAYS)
def test_what_is_not_registered_is_refused_at_once(
    confined: Node, table: EgressTable, family: Family, way: str
) -> None:
    attempt = sends(family, (family.address(family.local), PORT))[way]
    with answering(confined, family.local), pytest.raises(PermissionError):
        confined.lab.client(confined.app, attempt)
    found = counts(confined, table)
    udp = way.startswith("udp")
    assert (found.udp_refused if udp else found.tcp_refused) >= 1
    assert not (found.tcp_refused if udp else found.udp_refused)
    (noted,) = table.refused()
    assert noted == Refused(confined.app.stat().st_ino, "udp" if udp else "tcp", noted.destination)
    assert noted.destination is not None and tuple(noted.destination) == (family.local, PORT)
    assert confined.capture.counters()["egress_refused"] >= 1


@pytest.mark.parametrize("way", WAYS)
def test_without_a_policy_everything_leaves_and_is_counted(
    node: Node, table: EgressTable, family: Family, way: str
) -> None:
    confine(node, EgressMode.ALLOW_ANY)
    with answering(node, family.local):
        node.lab.client(node.app, sends(family, (family.address(family.local), PORT))[way])
    found = counts(node, table)
    assert (found.udp_allowed if way.startswith("udp") else found.tcp_allowed) >= 1
    assert not (found.tcp_refused or found.udp_refused or found.other_refused) and not table.refused()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("who", ["loopback", "unspecified"])
def test_loopback_is_always_allowed(confined: Node, family: Family, table: EgressTable, way: str, who: str) -> None:
    address = family.loopback if who == "loopback" else ("::" if family.name == "v6" else "0.0.0.0")
    with answering(confined, "::" if family.name == "v6" else "0.0.0.0"):
        confined.lab.client(confined.app, sends(family, (family.address(address), PORT))[way])
    assert counts(confined, table) == EgressCounts()


def test_the_mesh_is_reached_as_ever(confined: Node, family: Family) -> None:
    confined.lab.client(confined.app, lambda: connect(family, family.virtual, 80))
    assert confined.take(family) is not None


def test_udp_to_a_name_of_the_mesh_is_refused_without_a_fuss(
    confined: Node, family: Family, table: EgressTable
) -> None:
    """C libraries connect a UDP socket to every address of a name, to sort them."""
    with pytest.raises(PermissionError):
        confined.lab.client(confined.app, sends(family, (family.address(family.virtual), 80))["udp-connect"])
    assert counts(confined, table) == EgressCounts() and not table.refused()
    assert confined.capture.counters()["egress_to_mesh"] >= 1


def test_others_are_left_alone(confined: Node, family: Family, table: EgressTable) -> None:
    with answering(confined, family.local):
        for attempt in sends(family, (family.address(family.local), PORT)).values():
            confined.lab.client(confined.plain, attempt)
    assert not table.refused()


def test_nested_cgroups_inherit(confined: Node, family: Family, table: EgressTable) -> None:
    confined.lab.cgroup("app/worker")
    nested = confined.lab.cgroup("app/worker/pool")
    for way in ("tcp", "udp-sendto"):
        with pytest.raises(PermissionError):
            confined.lab.client(nested, sends(family, (family.address(family.local), PORT))[way])
    found = counts(confined, table)
    assert found.tcp_refused and found.udp_refused


SOCKETS = {
    "raw": (socket.SOCK_RAW, socket.IPPROTO_TCP, "raw"),
    "raw-any": (socket.SOCK_RAW, socket.IPPROTO_RAW, "raw"),
    "raw-icmp": (socket.SOCK_RAW, socket.IPPROTO_ICMP, "raw"),
    "udplite": (SOCK_DGRAM, IPPROTO_UDPLITE, "protocol 136"),
}


@pytest.mark.parametrize("name", SOCKETS)
def test_sockets_that_pass_by_the_hooks_are_refused(
    confined: Node, family: Family, table: EgressTable, name: str
) -> None:
    kind, protocol, said = SOCKETS[name]

    def make() -> None:
        socket.socket(family.af, kind, protocol).close()

    confined.lab.client(confined.plain, make)
    with pytest.raises(PermissionError):
        confined.lab.client(confined.app, make)
    assert table.refused().keys() == {Refused(confined.app.stat().st_ino, said, None)}
    assert counts(confined, table) == EgressCounts(other_refused=1)


def test_it_holds_without_an_agent(node: Node, family: Family) -> None:
    """The policy is in the pinned maps, and so is the program."""
    confine(node)
    node.capture.close()
    try:
        for listener in node.listeners.values():
            listener.close()
        for way in ("tcp", "udp-connect", "udp-sendto"):
            with pytest.raises(PermissionError):
                node.lab.client(node.app, sends(family, (family.address(family.local), PORT))[way])
    finally:
        node.capture = Capture.open(node.lab.settings)


def test_a_resolver_is_no_way_out(confined: Node, family: Family) -> None:
    """No agent answers questions here: they stay, over UDP and TCP, where elsewhere they would go on directly."""
    confined.lab.inside(lambda: confined.capture.set_listeners(CAPTURE_PORT, 15053))
    for listener in confined.listeners.values():
        listener.close()
    for way in ("tcp", "udp-connect", "udp-sendto"):
        with pytest.raises(PermissionError):
            confined.lab.client(confined.app, sends(family, (family.address(family.local), 53))[way])


def test_what_stood_before_the_policy_goes_on(node: Node, family: Family) -> None:
    confine(node, EgressMode.ALLOW_ANY)
    with answering(node, family.local):

        def make(kind: int) -> Callable[[], socket.socket]:
            def made() -> socket.socket:
                client = socket.socket(family.af, kind)
                client.connect((family.address(family.local), PORT))
                return client

            return made

        standing = [node.lab.made_in(node.app, make(kind)) for kind in (SOCK_STREAM, SOCK_DGRAM)]
        confine(node)
        for each in standing:
            each.send(b"x")


def test_a_policy_is_lifted_at_once(confined: Node, family: Family) -> None:
    attempt = sends(family, (family.address(family.local), PORT))["udp-sendto"]
    with pytest.raises(PermissionError):
        confined.lab.client(confined.app, attempt)
    confine(confined, EgressMode.ALLOW_ANY)
    confined.lab.client(confined.app, attempt)


def test_a_cgroup_that_is_nobodys_has_the_strictest_policy_of_those_that_claim_it(node: Node, family: Family) -> None:
    (mine,) = node.local
    other = replace(mine, uid="shop/other", egress_mode=EgressMode.REGISTRY_ONLY)
    node.local = [mine, other]
    enrolment = node.capture.sync(node.local, destinations())
    assert set(enrolment.contested) == {node.app.stat().st_ino}
    with pytest.raises(PermissionError):
        node.lab.client(node.app, sends(family, (family.address(family.local), PORT))["udp-sendto"])


def cable() -> int:
    """The number of an interface that leads out of the namespace."""
    for command in (
        "link add mesh9 type veth peer name mesh8", "link set mesh8 up", "link set mesh9 up",
        "addr add 10.8.8.8/24 dev mesh9", "addr add fd08::8/64 dev mesh9 nodad", "-6 route add default dev mesh9",
        "route add default dev mesh9",
    ):  # fmt: skip
        subprocess.run(["ip", *command.split()], check=True)
    return socket.if_nametoindex("mesh9")


BOUND = {
    "device": (socket.SOL_SOCKET, 25, b"mesh9\0"),
    "preferred": (socket.IPPROTO_IP, 50, None),
}
"""SO_BINDTODEVICE; IP_UNICAST_IF, for which IPv6 has one of its own."""


@pytest.mark.parametrize("how", BOUND)
def test_nothing_that_is_bound_to_a_device_counts_as_loopback(confined: Node, family: Family, how: str) -> None:
    """It would leave by that device, whatever the address."""

    index = confined.lab.inside(cable)
    level, option, value = BOUND[how]
    if value is None:
        value = index.to_bytes(4, "big")
        if family.name == "v6":
            level, option = socket.IPPROTO_IPV6, 76

    def attempt(kind: int, connecting: bool) -> int:
        with socket.socket(family.af, kind) as client:
            client.setsockopt(level, option, value)
            where = (family.address(family.loopback), 9)
            try:
                client.connect(where) if connecting else client.sendto(b"x", where)
            except OSError as error:
                return error.errno or -1
            return 0

    for kind, connecting in ((SOCK_DGRAM, False), (SOCK_DGRAM, True), (SOCK_STREAM, True)):
        assert confined.lab.client(confined.app, partial(attempt, kind, connecting)) == errno.EPERM


def test_a_datagram_for_loopback_never_leaves_by_the_interface_that_it_names(confined: Node, family: Family) -> None:
    """With IP_PKTINFO, of which the hooks on addresses see nothing; whether or not the agent lives."""
    index = confined.lab.inside(cable)
    if family.name == "v6":
        message = (socket.IPPROTO_IPV6, 50, bytes(16) + index.to_bytes(4, sys.byteorder))
    else:
        message = (socket.IPPROTO_IP, 8, struct.pack("=I8x", index))
    sniffer = confined.lab.inside(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)))
    confined.lab.stack.callback(sniffer.close)
    sniffer.bind(("mesh8", 3))
    secret = f"secret {family.name}".encode()

    def send(source: str = "") -> int:
        with socket.socket(socket.AF_INET6 if family.name == "v6" else socket.AF_INET, SOCK_DGRAM) as client:
            if source:
                client.bind((source, 0))
            try:
                client.sendmsg([secret], [message], 0, (family.loopback, 9))
            except OSError as error:
                return error.errno or -1
            return 0

    own = "fd08::8" if family.name == "v6" else "10.8.8.8"
    confined.capture.close()
    for source in ("", own):
        assert confined.lab.client(confined.app, partial(send, source)) != 0
    confined.capture = Capture.open(confined.lab.settings)
    assert confined.lab.client(confined.app, send) != 0
    sniffer.setblocking(False)
    seen = b""
    with contextlib.suppress(BlockingIOError):
        while True:
            seen += sniffer.recv(2000)
    assert secret not in seen
    confine(confined, EgressMode.ALLOW_ANY)
    assert not [pin for pin in (confined.capture.pin_dir / "links").iterdir() if pin.name.startswith("wire_")]
