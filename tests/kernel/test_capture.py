"""A connection is captured, shown, refused or left alone: the hooks on the real kernel, in all three families."""

from __future__ import annotations

import errno
import select
import socket
import struct
from pathlib import Path

import pytest

from control.wire.address import SocketAddress
from nodeagent.capture.plan import User
from nodeagent.loader.abi import MAX_DEPTH, ConfigFlag
from nodeagent.loader.maps import Settings
from nodeagent.namespaces.loopback import has_ipv6_loopback
from tests.kernel.conftest import CAPTURE_PORT, FAMILIES, Family, Node, connect, workload
from tests.support.pace import patient

V4 = FAMILIES[0]
IPPROTO_MPTCP = 262


def test_a_captured_connection_tells_its_origin(node: Node, family: Family) -> None:
    node.mesh((family.virtual, 80))
    told = node.lab.client(node.app, lambda: connect(family, family.virtual, 80))
    accepted, source = node.accept(family)
    flow = node.flows.take(source, accepted)
    assert flow is not None
    assert flow.destination == SocketAddress(family.virtual, 80)
    assert flow.cgroup_id == node.app.stat().st_ino
    assert (flow.socket_cookie, flow.pid, flow.uid) == (told["cookie"], told["pid"], 0)
    assert told["peer"] == (family.address(family.virtual), 80)
    assert node.flows.take(source, accepted) is None, "a record is taken once"


def test_a_process_that_is_not_enrolled_is_untouched(node: Node, family: Family) -> None:
    node.mesh((family.local, 8080))
    server = node.lab.listen(family.local, 8080)
    told = node.lab.client(node.plain, lambda: connect(family, family.local, 8080))
    server.accept()[0].close()
    assert told["peer"] == (family.address(family.local), 8080)
    counters = node.capture.counters()
    assert counters["passed_not_enrolled"] == 1
    assert counters["captured"] == counters["peer_shown"] == counters["flow_recorded"] == 0


def test_an_enrolled_process_reaches_what_is_not_in_the_mesh(node: Node, family: Family) -> None:
    """Another port of a mesh address is not in the mesh."""
    node.mesh((family.local, 8080))
    server = node.lab.listen(family.local, 8081)
    told = node.lab.client(node.app, lambda: connect(family, family.local, 8081))
    server.accept()[0].close()
    assert told["peer"] == (family.address(family.local), 8081)
    assert node.capture.counters()["passed_not_mesh"] == 1
    assert node.capture.counters()["captured"] == 0


def test_nested_cgroups_inherit_and_the_nearest_wins(node: Node, family: Family) -> None:
    inner = node.lab.cgroup("app/inner")
    special = node.lab.cgroup("app/inner/special")
    node.local.append(workload("shop/special", "/app/inner/special"))
    node.mesh((family.virtual, 80))
    for cgroup, enrolled in ((inner, node.app), (special, special)):
        node.lab.client(cgroup, lambda: connect(family, family.virtual, 80))
        flow = node.take(family)
        assert flow is not None and flow.cgroup_id == enrolled.stat().st_ino


def test_users_of_one_cgroup_are_workloads_of_their_own(node: Node, family: Family) -> None:
    """Nested cgroups inherit that too; who is none of them is not enrolled."""
    shared = node.lab.cgroup("shared")
    cgroups = [shared, node.lab.cgroup("shared/inner")]
    number = shared.stat().st_ino
    node.local += [workload(f"shop/u{uid}", "/shared", user=uid) for uid in (1001, 1002)]
    server = node.lab.listen(family.local, 8080)
    enrolment = node.mesh((family.local, 8080))
    for cgroup in cgroups:
        for uid in (1001, 1002):
            node.lab.client(cgroup, lambda: connect(family, family.local, 8080), uid=uid)
            flow = node.take(family)
            assert flow is not None and (flow.cgroup_id, flow.uid) == (User(number, uid).number, uid)
            assert enrolment.cgroups[flow.cgroup_id] == f"shop/u{uid}"
        for uid in (0, 1003):
            node.lab.client(cgroup, lambda: connect(family, family.local, 8080), uid=uid)
            server.accept()[0].close()
    assert node.capture.counters()["captured"] == node.capture.counters()["passed_not_enrolled"] == 4


def test_a_user_s_workload_before_that_of_the_whole_cgroup(node: Node, family: Family) -> None:
    """And the whole again when the user's is gone."""
    node.local.append(workload("shop/user", "/app", user=1001))
    node.mesh((family.virtual, 80))
    whole = node.app.stat().st_ino
    for uid, expected in ((1001, User(whole, 1001).number), (1002, whole)):
        node.lab.client(node.app, lambda: connect(family, family.virtual, 80), uid=uid)
        flow = node.take(family)
        assert flow is not None and flow.cgroup_id == expected
    del node.local[-1]
    node.mesh((family.virtual, 80))
    node.lab.client(node.app, lambda: connect(family, family.virtual, 80), uid=1001)
    flow = node.take(family)
    assert flow is not None and flow.cgroup_id == whole


def test_a_user_that_two_workloads_select_is_nobody_s_and_captured(node: Node) -> None:
    node.local += [workload(f"shop/{name}", "/app/twice", user=1001) for name in ("a", "b")]
    twice = node.lab.cgroup("app/twice")
    made = node.mesh((V4.virtual, 80))
    assert [
        text for text in made.problems if f"cgroup {twice.stat().st_ino} uid 1001 is selected by shop/a and" in text
    ]
    node.lab.client(twice, lambda: connect(V4, V4.virtual, 80), uid=1001)
    flow = node.take(V4)
    assert flow is not None and flow.cgroup_id not in made.cgroups


def test_a_process_deeper_than_the_walk_is_captured_all_the_same(node: Node) -> None:
    path = "app"
    for _ in range(MAX_DEPTH + 3):
        path += "/d"
        node.lab.cgroup(path)
    node.mesh((V4.virtual, 80))
    node.lab.client(node.lab.root / path, lambda: connect(V4, V4.virtual, 80))
    assert node.take(V4) is not None
    assert node.capture.counters()["depth_exceeded"] == 1


def test_without_a_listener_connections_are_refused_at_once(node: Node, family: Family) -> None:
    """The agent is dead, its record stays."""
    node.mesh((family.virtual, 80))
    node.listeners[family.loopback].close()
    with pytest.raises(ConnectionRefusedError):
        node.lab.client(node.app, lambda: connect(family, family.virtual, 80))


def test_without_an_agent_in_the_namespace_connections_are_refused(node: Node, family: Family) -> None:
    node.mesh((family.local, 8080))
    server = node.lab.listen(family.local, 8080)
    node.capture.unserve(node.cookie)
    with pytest.raises(PermissionError):
        node.lab.client(node.app, lambda: connect(family, family.local, 8080))
    server.setblocking(False)
    with pytest.raises(BlockingIOError):
        server.accept()
    assert node.capture.counters()["refused_no_listener"] == 1


def test_udp_is_untouched(node: Node, family: Family) -> None:
    node.mesh((family.local, 5353))

    def talk() -> tuple[str, int]:
        with socket.socket(family.af, socket.SOCK_DGRAM) as client:
            client.connect((family.address(family.local), 5353))
            peer: tuple[str, int] = client.getpeername()[:2]
            return peer

    assert node.lab.client(node.app, talk) == (family.address(family.local), 5353)
    assert node.capture.counters()["captured"] == 0


def test_a_nonblocking_connect_is_captured(node: Node, family: Family) -> None:
    node.mesh((family.virtual, 80))

    def begin() -> int:
        with socket.socket(family.af) as client:
            client.setblocking(False)
            code = client.connect_ex((family.address(family.virtual), 80))
            select.select([], [client], [], 5)
            assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            assert client.getpeername()[:2] == (family.address(family.virtual), 80)
            return code

    assert node.lab.client(node.app, begin) in (0, errno.EINPROGRESS)
    flow = node.take(family)
    assert flow is not None and flow.destination == SocketAddress(family.virtual, 80)


def test_a_connection_opened_by_fast_open_is_captured(node: Node) -> None:
    node.mesh((V4.virtual, 80))

    def send() -> None:
        with socket.socket() as client:  # blocking: a socket with a timeout would answer EINPROGRESS here
            client.sendto(b"hello", socket.MSG_FASTOPEN, (V4.virtual, 80))

    node.lab.client(node.app, send)
    connection, source = node.accept(V4)
    assert node.record(source) is not None
    assert connection.recv(16) == b"hello"


def test_a_multipath_connection_is_captured(node: Node, family: Family) -> None:
    node.mesh((family.virtual, 80))

    def open_mptcp() -> None:
        with socket.socket(family.af, socket.SOCK_STREAM, IPPROTO_MPTCP) as client:
            client.settimeout(patient(5))
            client.connect((family.address(family.virtual), 80))

    try:
        node.lab.client(node.app, open_mptcp)
    except OSError as error:
        assert error.errno in (errno.EPROTONOSUPPORT, errno.ENOPROTOOPT), "only a kernel without MPTCP may refuse"
        pytest.skip("this kernel has no MPTCP")
    assert node.take(family) is not None


def test_a_source_address_that_the_application_chose_is_kept(node: Node, family: Family) -> None:
    node.mesh((family.virtual, 80))
    told = node.lab.client(node.app, lambda: connect(family, family.virtual, 80, (family.address(family.local), 40001)))
    _, source = node.accept(family)
    assert source == SocketAddress(family.local, 40001)
    assert told["name"] == (family.address(family.local), 40001)
    assert node.record(source) is not None


def test_a_stale_record_is_never_adopted(node: Node, family: Family) -> None:
    """Captured, never taken; then somebody who is not enrolled comes from the same address and port."""
    node.mesh((family.virtual, 80))
    source = (family.address(family.loopback), 40002)
    node.lab.client(node.app, lambda: connect(family, family.virtual, 80, source))
    node.accept(family)[0].close()
    node.lab.client(node.plain, lambda: connect(family, family.loopback, CAPTURE_PORT, source))
    _, peer = node.accept(family)
    assert peer.port == 40002
    assert node.record(peer) is None
    assert node.capture.counters()["flow_forgotten"] == 1


def test_an_enrolled_process_that_calls_the_capture_port_itself_has_no_record(node: Node, family: Family) -> None:
    node.mesh((family.virtual, 80))
    node.lab.client(node.app, lambda: connect(family, family.loopback, CAPTURE_PORT))
    assert node.take(family) is None


def test_a_port_used_again_tells_the_new_destination(node: Node, family: Family) -> None:
    node.mesh((family.virtual, 80), (family.virtual, 81))
    source = (family.address(family.loopback), 40003)
    for port in (80, 81):
        node.lab.client(node.app, lambda port=port: connect(family, family.virtual, port, source))
        node.accept(family)[0].close()
    flow = node.record(SocketAddress(family.loopback, 40003))
    assert flow is not None and flow.destination.port == 81


def test_what_a_reset_connection_had_sent_never_travels_as_somebody_else(node: Node, family: Family) -> None:
    """It waits to be accepted, dead; its port was free, and an enrolled process has come from it since."""
    node.mesh((family.virtual, 80))
    source = (family.address(family.loopback), 40005)

    def send_and_reset() -> None:
        with socket.socket(family.af) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.bind(source)
            client.connect((family.address(family.loopback), CAPTURE_PORT))
            client.sendall(b"forged")

    node.lab.client(node.plain, send_and_reset)
    node.lab.client(node.app, lambda: connect(family, family.virtual, 80, source))
    dead, peer = node.accept(family)
    assert peer.port == 40005
    assert dead.recv(16) == b"forged", "the kernel hands the bytes out all the same"
    assert node.flows.take(peer, dead) is None


def test_a_stranger_cannot_remove_a_record_that_waits(node: Node) -> None:
    """The same source address and port towards another listener is another connection."""
    node.mesh((V4.virtual, 80))
    elsewhere = node.lab.listen("127.0.0.2", CAPTURE_PORT)
    source = ("127.0.0.1", 40004)
    node.lab.client(node.app, lambda: connect(V4, V4.virtual, 80, source))
    node.accept(V4)[0].close()
    node.lab.client(node.plain, lambda: connect(V4, "127.0.0.2", CAPTURE_PORT, source))
    elsewhere.accept()[0].close()
    assert node.record(SocketAddress(*source)) is not None


def test_a_socket_that_connects_elsewhere_after_a_failure_forgets(node: Node, family: Family) -> None:
    node.mesh((family.virtual, 80))
    node.listeners[family.loopback].close()
    server = node.lab.listen(family.local, 8081)

    def twice() -> tuple[str, int]:
        with socket.socket(family.af) as client:  # blocking: otherwise the kernel wants a third connect()
            assert client.connect_ex((family.address(family.virtual), 80)) == errno.ECONNREFUSED
            client.connect((family.address(family.local), 8081))
            peer: tuple[str, int] = client.getpeername()[:2]
            return peer

    assert node.lab.client(node.app, twice) == (family.address(family.local), 8081)
    accepted, source = server.accept()
    accepted.close()
    assert node.record(SocketAddress(family.local, source[1])) is None
    assert node.capture.counters()["flow_recorded"] == 0


def test_leaving_the_mesh_ends_capture(node: Node, family: Family) -> None:
    server = node.lab.listen(family.local, 8080)
    node.mesh((family.local, 8080))
    node.capture.sync([])
    told = node.lab.client(node.app, lambda: connect(family, family.local, 8080))
    server.accept()[0].close()
    assert told["peer"] == (family.address(family.local), 8080)


def test_when_not_everything_fits_unknown_destinations_are_refused(node: Node, family: Family) -> None:
    """Fail closed for the enrolled, nothing for the others; known destinations go on."""
    node.mesh((family.virtual, 80))
    server = node.lab.listen(family.local, 8081)
    settings = Settings(node.capture.pin_dir)
    settings.set(ConfigFlag.INCOMPLETE)
    settings.close()
    with pytest.raises(PermissionError):
        node.lab.client(node.app, lambda: connect(family, family.local, 8081))
    node.lab.client(node.plain, lambda: connect(family, family.local, 8081))
    server.accept()[0].close()
    node.lab.client(node.app, lambda: connect(family, family.virtual, 80))
    assert node.capture.counters()["refused_incomplete"] == 1


def test_a_namespace_without_ipv6(node: Node) -> None:
    """What goes to an IPv6 address of the mesh is taken to the IPv4 listener, and is told apart as ever."""
    v6 = FAMILIES[1]
    node.mesh((v6.virtual, 80))
    node.lab.inside(lambda: Path("/proc/sys/net/ipv6/conf/lo/disable_ipv6").write_text("1"))
    with pytest.raises(OSError, match="Cannot assign requested address"):
        node.lab.client(node.app, lambda: connect(v6, v6.virtual, 80))
    node.capture.serve(node.cookie, CAPTURE_PORT, ipv6=node.lab.inside(lambda: has_ipv6_loopback(None)))
    told = node.lab.client(node.app, lambda: connect(v6, v6.virtual, 80))
    assert told["peer"] == (v6.virtual, 80)
    flow = node.take(FAMILIES[0])
    assert flow is not None and flow.destination == SocketAddress(v6.virtual, 80)


def test_many_connections_are_told_apart(node: Node, family: Family) -> None:
    ports = range(1000, 1040)
    node.mesh(*((family.virtual, port) for port in ports))

    def storm() -> dict[int, int]:
        clients = [socket.create_connection((family.address(family.virtual), port), 5) for port in ports]
        return {client.getsockname()[1]: port for client, port in zip(clients, ports, strict=True)}

    expected = node.lab.client(node.app, storm)
    for _ in ports:
        _, source = node.accept(family)
        flow = node.record(source)
        assert flow is not None and flow.destination.port == expected[source.port]
    assert node.capture.counters()["captured"] == node.capture.counters()["flow_recorded"] == len(ports)
