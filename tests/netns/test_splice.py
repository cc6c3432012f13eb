"""Same-node flows in the kernel's hands: applications notice nothing, and the mesh still knows and decides."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.netns import resources
from tests.netns.conftest import MakeShop
from tests.netns.lab import eventually
from tests.netns.resources import from_principal, policy
from tests.netns.servers import echo, http_get, read_all, read_exactly, reset
from tests.netns.shop import PORT, TARGET_PORT, Family, Shop
from tests.netns.spliced import Pair, Stream, assert_reset, metric, pair, redirected, spliced, transfer
from tests.netns.spot import IO_SECONDS
from tests.netns.test_policy import AT_ONCE, admitted

BULK = 20_000_000
OTHER_PORT = 8081
REPORTERS = ("source", "destination")


@pytest.mark.splice
def test_the_self_test_is_told(shop: Shop) -> None:
    told = shop.mesh.a.nodeagent("status", "-o", "json")["splice"]
    assert told["on"], told["why_not"]
    assert told["self_test"]["items"]["bulk"] == "pass"
    assert told["limit_bytes"] > 0 and told["cap_bytes"] > 0
    assert metric(shop.mesh, "nodemesh_splice_on") == 1
    assert metric(shop.mesh, "nodemesh_splice_self_test", item="half-close", result="pass") == 1
    assert metric(shop.mesh, "nodemesh_splice_self_test", result="fail") == 0


@pytest.mark.splice
def test_bytes_arrive_intact_both_ways(shop: Shop, family: Family) -> None:
    data = os.urandom(1_000_000) * (BULK // 1_000_000)
    with spliced(shop, family) as flow:
        flow.bulk(data)


@pytest.mark.splice
def test_both_directions_at_once(shop: Shop, family: Family) -> None:
    up, down = os.urandom(BULK), os.urandom(BULK)
    got: list[bytes] = []
    with spliced(shop, family) as flow:
        other = threading.Thread(target=lambda: got.append(transfer(flow.server, flow.client, down)), daemon=True)
        other.start()
        assert transfer(flow.client, flow.server, up) == up
        other.join(IO_SECONDS)
    assert got == [down]


@pytest.mark.splice
def test_spliced_bytes_are_counted_and_logged(shop: Shop, family: Family) -> None:
    ends = {"source_workload": "client", "destination_workload": "local"}
    names = ("istio_tcp_received_bytes_total", "istio_tcp_sent_bytes_total")
    since = shop.mesh.a.access_position()
    before = {(name, by): metric(shop.mesh, name, reporter=by, **ends) for name in names for by in REPORTERS}
    with spliced(shop, family) as flow:
        port = flow.port
        flow.exchange(b"x" * 10_000)
        assert transfer(flow.client, flow.server, bytes(1_000_000)) == bytes(1_000_000)
        assert transfer(flow.server, flow.client, bytes(300_000)) == bytes(300_000)
        carried = dict(zip(names, (flow.sent + 1_000_000, flow.sent + 300_000), strict=True))
        for (name, by), count in before.items():  # while it lives
            assert metric(shop.mesh, name, reporter=by, **ends) - count == carried[name], (name, by)
        flow.client.shutdown(socket.SHUT_WR)
        assert read_all(flow.server) == b""
    lines = eventually(lambda: _both_lines(shop, since, port))
    for line in lines:
        assert [int(line["bytes_sent"]), int(line["bytes_recv"])] == list(carried.values()), line
        assert line["reason"] == "ok"
    for (name, by), count in before.items():  # and afterwards no byte is counted twice
        assert metric(shop.mesh, name, reporter=by, **ends) - count == carried[name], (name, by)


def _both_lines(shop: Shop, since: int, port: str) -> list[dict[str, str]]:
    lines = [line for line in shop.mesh.a.access(since=since) if line["src.addr"].endswith(port)]
    return lines if len(lines) == 2 else []


@pytest.mark.splice
def test_client_ends_first(shop: Shop, family: Family) -> None:
    with spliced(shop, family) as flow:
        flow.client.sendall(b"x" * 300_000)
        flow.client.shutdown(socket.SHUT_WR)
        assert read_all(flow.server) == b"x" * 300_000
        assert transfer(flow.server, flow.client, b"y" * 1_000_000) == b"y" * 1_000_000
        flow.server.shutdown(socket.SHUT_WR)
        assert read_all(flow.client) == b""


@pytest.mark.splice
def test_server_ends_first(shop: Shop, family: Family) -> None:
    with spliced(shop, family) as flow:
        flow.server.sendall(b"x" * 300_000)
        flow.server.shutdown(socket.SHUT_WR)
        assert read_all(flow.client) == b"x" * 300_000
        assert transfer(flow.client, flow.server, b"y" * 1_000_000) == b"y" * 1_000_000
        flow.client.shutdown(socket.SHUT_WR)
        assert read_all(flow.server) == b""


@pytest.mark.splice
def test_a_close_lets_what_was_sent_arrive(shop: Shop, family: Family) -> None:
    with spliced(shop, family) as flow:
        flow.client.sendall(b"z" * 500_000)
        flow.client.close()
        assert read_all(flow.server) == b"z" * 500_000


@pytest.mark.splice
def test_a_reset_of_the_client_reaches_the_server(shop: Shop, family: Family) -> None:
    with spliced(shop, family) as flow:
        reset(flow.client)
        assert_reset(flow.server)


@pytest.mark.splice
def test_a_reset_of_the_server_reaches_the_client(shop: Shop, family: Family) -> None:
    with spliced(shop, family) as flow:
        reset(flow.server)
        assert_reset(flow.client)


@pytest.mark.splice
def test_a_reader_that_stops_holds_the_sender(shop: Shop) -> None:
    """What waits is bounded, and then every byte arrives."""
    with spliced(shop) as flow:
        flow.client.settimeout(1)
        sent, piece = 0, os.urandom(65536)
        with pytest.raises(TimeoutError):
            while sent < 256 * 1024 * 1024:
                sent += flow.client.send(piece[sent % 65536 :])
        queued = metric(shop.mesh, "nodemesh_splice_queued_bytes")
        assert 0 < queued <= shop.mesh.a.nodeagent("status", "-o", "json")["splice"]["limit_bytes"] + len(piece)
        received = read_exactly(flow.server, sent)
        assert received == (piece * (sent // len(piece) + 1))[:sent]
        flow.splice()


def test_blocking_readers_are_relayed(shop: Shop, family: Family) -> None:
    data = os.urandom(3_000_000)
    before = redirected(shop)
    with pair(shop, family, seconds=None) as flow:
        for _ in range(10):
            flow.exchange()
        assert transfer(flow.client, flow.server, data) == data
        assert transfer(flow.server, flow.client, data) == data
    assert redirected(shop) == before


@pytest.mark.splice
def test_nginx_sends_a_file_with_sendfile(shop: Shop, family: Family, tmp_path: Path) -> None:
    content = os.urandom(BULK)
    with nginx(shop, tmp_path, content), eventually(lambda: shop.dial(shop.local, family)) as connection:
        before = redirected(shop)
        for _ in range(3):
            assert http_get(connection, "/hello") == (200, b"hello\n")
        assert redirected(shop) > before, "nginx and this client were not spliced"
        for _ in range(2):
            assert http_get(connection, "/file") == (200, content)
        assert http_get(connection, "/hello") == (200, b"hello\n")


@contextmanager
def nginx(shop: Shop, directory: Path, content: bytes) -> Iterator[None]:
    """Serves ``/hello`` and ``/file`` behind the service ``local``; waits until it does."""
    (directory / "root").mkdir()
    (directory / "root" / "file").write_bytes(content)
    (directory / "root" / "hello").write_bytes(b"hello\n")
    configuration = directory / "nginx.conf"
    configuration.write_text(
        f"""daemon off; user root; worker_processes 1; pid {directory}/pid; error_log {directory}/error.log;
        events {{ worker_connections 64; }}
        http {{
            access_log off; sendfile on; sendfile_max_chunk 0; client_body_temp_path {directory}/body;
            proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
            uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
            server {{ listen [::]:{TARGET_PORT} ipv6only=off; root {directory}/root; }}
        }}"""
    )
    process = shop.local.spot.spawn("nginx", "-c", configuration, "-p", directory)
    try:
        eventually(lambda: _answers(shop), what="nginx answers")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(IO_SECONDS)


def _answers(shop: Shop) -> bool:
    with shop.dial(shop.local) as connection:
        return http_get(connection, "/hello")[0] == 200


@pytest.mark.splice
def test_a_deny_policy_resets_a_spliced_flow_at_once(shop: Shop, family: Family) -> None:
    deny = policy("deny-client", "DENY", app="local", rules=[from_principal("client")])
    since = shop.mesh.a.access_position()
    with spliced(shop, family) as flow:
        port, sent = flow.port, flow.sent
        with shop.mesh.applied(deny):
            assert_reset(flow.client, AT_ONCE)
            assert_reset(flow.server, AT_ONCE)
    for line in eventually(lambda: _both_lines(shop, since, port)):
        assert (line["reason"], int(line["bytes_sent"]), int(line["bytes_recv"])) == ("policy-revoked", sent, sent)
    with shop.local.serve(echo):
        eventually(lambda: admitted(shop, shop.local, shop.client, family), what="admitted again")
    with spliced(shop, family):
        pass


def test_a_label_keeps_a_workload_in_the_relay(shop: Shop) -> None:
    a = shop.mesh.a
    quiet = shop.mesh.spot_of(a, "quiet")
    with shop.mesh.applied(
        resources.workload("quiet", a.name, labels={"nodemesh.io/splice": "off"}),
        resources.service("quiet", {PORT: OTHER_PORT}, addresses=("240.240.1.9", "fd6d:6573:68::109")),
    ):
        shop.mesh.wait_enrolled(quiet)
        with quiet.listen(OTHER_PORT) as listener:
            client = eventually(lambda: shop.client.connect("240.240.1.9", PORT))
            server = listener.accept()[0]
            with client, server:
                server.settimeout(IO_SECONDS)
                flow, before = Pair(shop, client, server), redirected(shop)
                for _ in range(10):
                    flow.exchange()
                assert redirected(shop) == before


@pytest.mark.splice
def test_a_service_that_is_switched_off_is_relayed_from_now_on(shop: Shop, family: Family) -> None:
    """Live flows go back to relay, and are spliced again; none breaks."""
    node, data = shop.mesh.a, os.urandom(1_000_000)
    with spliced(shop, family) as flow:
        flow.client.sendall(data)
        with shop.labelled(shop.local, splice="off"):
            assert read_exactly(flow.server, len(data)) == data, "what waited when it was switched off"
            eventually(lambda: flow.short_cut() == 0, what="the flow is relayed")
            assert transfer(flow.server, flow.client, data) == data
            (row,) = node.nodeagent("flows", "-o", "json")["flows"]
            assert row["relayed_because"] == "switched off by service shop/local"
            assert "service shop/local: switched off by its label" in node.nodeagent("status")
        flow.splice()
        (row,) = node.nodeagent("flows", "-o", "json")["flows"]
        assert row["relayed_because"] == ""


@pytest.mark.splice
def test_a_workload_that_is_switched_off_is_relayed_from_now_on(shop: Shop) -> None:
    node = shop.mesh.a
    with spliced(shop) as flow:
        shop.mesh.apply(resources.workload("client", node.name, labels={"nodemesh.io/splice": "off"}))
        try:
            eventually(lambda: flow.short_cut() == 0, what="the flow is relayed")
            told = node.nodeagent("status", "-o", "json")["splice"]["kept_out"]["workloads"]
            assert [uid.partition("@")[0] for uid in told] == ["shop/client"]
        finally:
            shop.mesh.apply(resources.workload("client", node.name))
        flow.splice()


@pytest.mark.splice
def test_the_mesh_switches_the_splice_of_every_node(shop: Shop, family: Family) -> None:
    data = os.urandom(1_000_000)
    with spliced(shop, family) as flow:
        flow.client.sendall(data)
        with shop.mesh.applied(resources.mesh_config(splice=False)):
            eventually(lambda: metric(shop.mesh, "nodemesh_splice_on") == 0)
            assert read_exactly(flow.server, len(data)) == data, "what waited when it was switched off"
            eventually(lambda: flow.short_cut() == 0, what="the flow is relayed")
            assert transfer(flow.server, flow.client, data) == data
            for node in (shop.mesh.a, shop.mesh.b):
                eventually(lambda node=node: "whole mesh" in node.nodeagent("status"))
            (row,) = shop.mesh.a.nodeagent("flows", "-o", "json")["flows"]
            assert row["relayed_because"] == "switched off in the whole mesh (MeshConfig)"
        flow.splice()


@pytest.mark.splice
def test_bytes_that_were_redirected_until_a_cut_are_in_the_log(shop: Shop) -> None:
    """A sender at full speed is cut: no byte that arrived is missing in the record."""
    deny = policy("deny-client", "DENY", app="local", rules=[from_principal("client")])
    since = shop.mesh.a.access_position()
    with spliced(shop) as flow:
        before, port = flow.sent, flow.port
        with Stream(flow.client, flow.server) as stream:
            assert stream.flowing.wait(IO_SECONDS)
            with shop.mesh.applied(deny):
                stream.join()
        assert isinstance(stream.read_error, ConnectionResetError)
    for line in eventually(lambda: _both_lines(shop, since, port)):
        assert line["reason"] == "policy-revoked"
        assert int(line["bytes_sent"]) >= before + stream.read, line


@pytest.mark.splice
def test_the_kill_switch_takes_live_flows_back_and_breaks_none(shop: Shop, family: Family) -> None:
    node, data = shop.mesh.a, os.urandom(1_000_000)
    with spliced(shop, family) as flow:
        flow.client.sendall(data)
        node.nodeagent("splice", "off")
        try:
            assert read_exactly(flow.server, len(data)) == data, "what waited when it was switched off"
            eventually(lambda: flow.short_cut() == 0, what="the flow is relayed")
            assert transfer(flow.server, flow.client, data) == data
            assert not node.nodeagent("status", "-o", "json")["splice"]["on"]
        finally:
            node.nodeagent("splice", "on")
        flow.splice()


def test_switched_off_nothing_is_spliced(make_shop: MakeShop) -> None:
    shop = make_shop(agent_settings={"NODEMESH_SPLICE": "off"})
    told = shop.mesh.a.nodeagent("status", "-o", "json")["splice"]
    assert (told["on"], "switched off" in told["why_not"]) == (False, True)
    assert "relayed in userspace: switched off" in shop.mesh.a.nodeagent("status")
    assert metric(shop.mesh, "nodemesh_splice_on") == 0
    for family in Family:
        with pair(shop, family) as flow:
            for _ in range(10):
                flow.exchange()
            data = os.urandom(3_000_000)
            assert transfer(flow.client, flow.server, data) == data
    assert not [s for s in shop.mesh.a.metrics() if s.name == "nodemesh_splice_total"], "the programs are loaded"
