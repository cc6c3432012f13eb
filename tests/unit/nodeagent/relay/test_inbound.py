"""What a node answers to peers that it must not believe: certificates, server names, targets, claims."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from control.wire.address import SocketAddress
from control.wire.discovery import Action, AuthorizationPolicy, PolicyRule, SourceMatch
from nodeagent.http2.headers import fields_of
from nodeagent.http2.limits import MAX_FIELDS
from nodeagent.reasons import Reason
from tests.support import pki
from tests.support.peer import CONNECT, Answer, Peer, tls_context
from tests.support.relay import workload
from tests.support.stories import Stage, eventually, story

CLIENT = "spiffe://mesh.internal/ns/shop/sa/client"
REFUSALS = (ssl.SSLError, ConnectionError)


@asynccontextmanager
async def peer_of(mesh: Stage, leaf: pki.Leaf | None = None, sni: str | None = "", **options: ssl.TLSVersion):
    """A peer that is not connected yet; by default with the client's own SVID, asking for ``far``."""
    leaf = leaf or pki.make_svid(mesh.b.authority, CLIENT)
    peer = Peer(tls_context(leaf, mesh.root, **options), mesh.far.sni if sni == "" else sni)
    try:
        yield peer
    finally:
        peer.close()


def door(mesh: Stage) -> SocketAddress:
    return SocketAddress(mesh.ip, mesh.b.tunnel_port)


def target(mesh: Stage, port: int | None = None) -> str:
    return str(SocketAddress(mesh.ip, port or mesh.server_port))


async def expect_refusal(mesh: Stage, peer: Peer, reason: Reason, words: str) -> None:
    """The handshake fails, one record says why, and the node goes on."""
    with pytest.raises(REFUSALS):
        await peer.connect(door(mesh))
    (record,) = await mesh.records(mesh.b)
    assert record.reason is reason
    assert words in record.detail, record.detail
    client, server = await mesh.pair(mesh.VIP_FAR)
    await mesh.echo(client, server)


@story
async def test_a_certificate_of_a_foreign_ca_is_refused(mesh: Stage) -> None:
    async with peer_of(mesh, pki.make_svid(pki.make_root(), CLIENT)) as peer:
        await expect_refusal(mesh, peer, Reason.TLS_FAILURE, "certificate verify failed")


@story
async def test_an_expired_certificate_is_refused(mesh: Stage) -> None:
    async with peer_of(mesh, pki.BAD_SVIDS["expired"](mesh.b.authority)) as peer:
        await expect_refusal(mesh, peer, Reason.TLS_FAILURE, "certificate verify failed")


@story
async def test_two_uri_sans_are_refused(mesh: Stage) -> None:
    async with peer_of(mesh, pki.BAD_SVIDS["two URI SANs"](mesh.b.authority)) as peer:
        await expect_refusal(mesh, peer, Reason.IDENTITY_MISMATCH, "2 URI SANs")


@story
async def test_a_ca_as_leaf_is_refused(mesh: Stage) -> None:
    async with peer_of(mesh, pki.BAD_SVIDS["CA as leaf"](mesh.b.authority)) as peer:
        await expect_refusal(mesh, peer, Reason.TLS_FAILURE, "certificate verify failed")


@story
async def test_a_nodes_own_certificate_speaks_for_no_workload(mesh: Stage) -> None:
    async with peer_of(mesh, pki.BAD_SVIDS["a node's identity"](mesh.b.authority)) as peer:
        await expect_refusal(mesh, peer, Reason.IDENTITY_MISMATCH, "not a workload's identity")


@story
async def test_no_certificate_is_refused(mesh: Stage) -> None:
    peer = Peer(tls_context(None, mesh.root), mesh.far.sni)
    await expect_refusal(mesh, peer, Reason.TLS_FAILURE, "certificate")
    peer.close()


@story
async def test_tls_1_2_is_refused(mesh: Stage) -> None:
    async with peer_of(mesh, version=ssl.TLSVersion.TLSv1_2) as peer:
        await expect_refusal(mesh, peer, Reason.TLS_FAILURE, "protocol")


@story
async def test_an_unknown_server_name_is_refused(mesh: Stage) -> None:
    async with peer_of(mesh, sni="nobody.shop.workload.mesh.internal") as peer:
        await expect_refusal(mesh, peer, Reason.BAD_TARGET, "nobody.shop.workload.mesh.internal")


@story
async def test_a_workload_of_another_node_is_not_answered_for(mesh: Stage) -> None:
    async with peer_of(mesh, sni=mesh.near.sni) as peer:
        await expect_refusal(mesh, peer, Reason.BAD_TARGET, "no workload of this node")


@story
async def test_a_workload_without_svid_is_not_answered_for(mesh: Stage) -> None:
    new = workload("new", "b", 1, addresses=(mesh.ip,))
    mesh.update(new)
    async with peer_of(mesh, sni=new.sni) as peer:
        await expect_refusal(mesh, peer, Reason.NO_IDENTITY, "no SVID")


@story
async def test_without_server_name_the_address_decides_if_it_names_one_identity(mesh: Stage) -> None:
    mesh.update(gone=(("workload", mesh.near.uid),))  # which has the same address and port, on the other node
    async with peer_of(mesh, sni=None) as peer:
        await peer.connect(door(mesh))
        assert (await peer.request(target(mesh))).status == "200"
        await mesh.accept()


@story
async def test_without_server_name_an_address_of_several_identities_is_refused(mesh: Stage) -> None:
    mesh.update(workload("other", "b", 1, addresses=(mesh.ip,)))
    async with peer_of(mesh, sni=None) as peer:
        await expect_refusal(mesh, peer, Reason.BAD_TARGET, "several identities")


@story
async def test_what_is_not_tls_is_refused(mesh: Stage) -> None:
    client = socket.create_connection(tuple(door(mesh)))
    client.setblocking(False)
    mesh.sockets.append(client)
    await mesh.send(client, b"GET / HTTP/1.1\r\n\r\n")
    await mesh.read_to_end(client)
    assert await mesh.reasons(mesh.b) == [Reason.TLS_FAILURE]


@story
async def test_a_port_scan_leaves_one_line_and_nothing_else(mesh: Stage) -> None:
    socket.create_connection(tuple(door(mesh))).close()
    assert await mesh.reasons(mesh.b) == [Reason.TLS_FAILURE]
    assert not mesh.b.inbound.tunnels


@story
async def test_a_handshake_that_stops_is_ended_in_time(mesh: Stage) -> None:
    client = socket.create_connection(tuple(door(mesh)))
    client.send(b"\x16")
    client.setblocking(False)
    mesh.sockets.append(client)
    await eventually(lambda: mesh.b.inbound.tunnels)
    mesh.b.inbound.tick(mesh.loop.time() + 9)
    assert mesh.b.inbound.tunnels
    mesh.b.inbound.tick(mesh.loop.time() + 11)
    with contextlib.suppress(ConnectionResetError):  # where the octet was not read yet
        assert await mesh.read_to_end(client) == b""
    (record,) = await mesh.records(mesh.b)
    assert "no TLS handshake within" in record.detail


@story
async def test_what_is_not_http2_gets_a_goaway(mesh: Stage) -> None:
    async with peer_of(mesh) as peer:
        await peer.connect(door(mesh))
        peer.connection.output._parts = [b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00"]  # WINDOW_UPDATE of 0
        with pytest.raises(REFUSALS):
            await peer.until(lambda: False)
        assert [code for code, _ in peer.farewells] == [1]
    (record,) = await mesh.records(mesh.b)
    assert record.reason is Reason.PROTOCOL_ERROR and record.source_principal == CLIENT


@pytest.mark.parametrize(
    "authority", ["192.0.2.1:80", "[2001:db8::1]:80", "far.shop.mesh.internal:81", "x.y:80", "", "1:2:3"]
)
def test_a_target_that_is_not_here_is_a_bad_request(authority: str, caplog: pytest.LogCaptureFixture) -> None:
    for number in (1, 15001, 15008):
        _run_refusal("{ip}:" + str(number), caplog)
    _run_refusal(authority, caplog)


def _run_refusal(authority: str, caplog: pytest.LogCaptureFixture) -> None:
    @story
    async def ask(mesh: Stage) -> None:
        async with peer_of(mesh) as peer:
            await peer.connect(door(mesh))
            ip = f"[{mesh.ip}]" if ":" in mesh.ip else mesh.ip
            answer = await peer.request(authority.format(ip=ip))
            assert answer.status == "400"
            (record,) = await mesh.records(mesh.b)
            assert record.reason is Reason.BAD_TARGET
            assert record.source_principal == CLIENT
            good = await peer.request(target(mesh))  # the tunnel goes on
            assert good.status == "200"

    for ip in ("127.0.0.1", "::1"):
        ask(ip, caplog)


@story
async def test_a_service_name_is_a_target_where_its_workload_was_asked_for(mesh: Stage) -> None:
    async with peer_of(mesh) as peer:
        await peer.connect(door(mesh))
        answer = await peer.request("far.shop.mesh.internal:80")
        assert answer.status == "200"
        await mesh.accept()


@story
async def test_a_method_other_than_connect_is_a_bad_request(mesh: Stage) -> None:
    async with peer_of(mesh) as peer:
        await peer.connect(door(mesh))
        stream = peer.connection.open_stream(
            fields_of([(":method", "GET"), (":scheme", "http"), (":authority", "x"), (":path", "/")])
        )
        answer = Answer(stream)
        await peer.until(lambda: answer.headers is not None)
        assert answer.status == "400"


@story
async def test_too_many_fields_are_refused_and_the_tunnel_goes_on(mesh: Stage) -> None:
    async with peer_of(mesh) as peer:
        await peer.connect(door(mesh))
        answer = await peer.request(target(mesh), *((f"x-{number}", "") for number in range(MAX_FIELDS)))
        assert answer.status == "431"
        (record,) = await mesh.records(mesh.b)
        assert record.reason is Reason.BAD_TARGET and f"more than {MAX_FIELDS} header fields" in record.detail
        assert (await peer.request(target(mesh))).status == "200"


@story
async def test_a_port_that_was_taken_away_is_refused_on_an_old_tunnel(mesh: Stage) -> None:
    async with peer_of(mesh) as peer:
        await peer.connect(door(mesh))
        assert (await peer.request(target(mesh))).status == "200"
        mesh.update(replace(mesh.far, ports=(1,)))
        assert (await peer.request(target(mesh))).status == "400"


def only(*blocks: str, principals: tuple[str, ...] = ()) -> AuthorizationPolicy:
    source = SourceMatch(ip_blocks=blocks, principals=principals)
    rule = PolicyRule(sources=(source,))
    return AuthorizationPolicy(uid="shop/p", name="p", namespace="shop", action=Action.ALLOW, rules=(rule,))


@story
async def test_a_forged_address_is_not_the_source(mesh: Stage) -> None:
    mesh.update(only("192.0.2.0/24"), replace(mesh.far, policies=("shop/p",)))
    async with peer_of(mesh) as peer:
        await peer.connect(door(mesh))
        names = "k8s.namespace.name=shop,k8s.pod.name=client"
        answer = await peer.request(target(mesh), ("forwarded", 'for="192.0.2.7:1"'), ("baggage", names))
        assert answer.status == "401"
        (record,) = await mesh.records(mesh.b)
        assert record.reason is Reason.POLICY_DENIED
        assert record.source_address.ip == mesh.ip


@story
async def test_an_address_that_the_source_owns_is_believed(mesh: Stage) -> None:
    mesh.update(
        only("192.0.2.0/24"), replace(mesh.far, policies=("shop/p",)),
        replace(mesh.client, addresses=(mesh.ip, "192.0.2.7")),
    )  # fmt: skip
    names = "k8s.namespace.name=shop,k8s.pod.name=client"
    async with peer_of(mesh) as peer:
        await peer.connect(door(mesh))
        answer = await peer.request(target(mesh), ("forwarded", 'for="192.0.2.7:1"'), ("baggage", names))
        assert answer.status == "200"
        (flow,) = mesh.b.tracker.flows
        assert flow.record.source.uid == mesh.client.uid
        assert flow.record.source_address == SocketAddress("192.0.2.7", 1)
    # the same words from somebody else
    async with peer_of(mesh, pki.make_svid(mesh.b.authority, mesh.near.identity)) as peer:
        await peer.connect(door(mesh))
        answer = await peer.request(target(mesh), ("forwarded", 'for="192.0.2.7:1"'), ("baggage", names))
        assert answer.status == "401"


@story
async def test_forged_baggage_is_nobodys_identity(mesh: Stage) -> None:
    mesh.update(only(principals=("mesh.internal/ns/shop/sa/near",)), replace(mesh.far, policies=("shop/p",)))
    async with peer_of(mesh) as peer:
        await peer.connect(door(mesh))
        names = "k8s.namespace.name=shop,k8s.pod.name=near"
        answer = await peer.request(target(mesh), ("baggage", names))
        assert answer.status == "401"
        (record,) = await mesh.records(mesh.b)
        assert (record.source, record.source_principal) == (None, CLIENT)


@story
async def test_while_it_drains_no_tunnel_is_taken(mesh: Stage) -> None:
    mesh.b.services.drains = True
    async with peer_of(mesh) as peer:
        with pytest.raises(REFUSALS):
            await peer.connect(door(mesh))
    assert await mesh.reasons(mesh.b) == [Reason.AGENT_SHUTDOWN]


@story
async def test_a_draining_node_takes_streams_that_are_on_their_way(mesh: Stage) -> None:
    async with peer_of(mesh) as peer:
        await peer.connect(door(mesh))
        mesh.b.inbound.drain()  # the peer has not read of it
        answer = await peer.request(target(mesh))
        assert answer.status == "200"
        server = await mesh.accept()
        answer.stream.send(b"word")
        await peer.flush()
        assert await mesh.read(server, 4) == b"word"
        await peer.until(lambda: len(peer.farewells) == 2)
        assert not peer.connection.can_open
        answer.stream.end()
        await peer.flush()
        assert await mesh.read_to_end(server) == b""
        server.close()
        with pytest.raises(ssl.SSLZeroReturnError):
            await peer.until(lambda: False)
        assert answer.half_closed
        assert answer.reset_with is None
    assert await mesh.reasons(mesh.b) == [Reason.OK]


@story
async def test_a_peer_that_never_answers_a_ping_is_dropped(mesh: Stage) -> None:
    async with peer_of(mesh) as peer:
        await peer.connect(door(mesh))
        (tunnel,) = mesh.b.inbound.tunnels
        await eventually(lambda: tunnel.settled_once)
        now = mesh.loop.time()
        mesh.b.inbound.tick(now + 11)
        mesh.b.inbound.tick(now + 19)
        assert mesh.b.inbound.tunnels
        mesh.b.inbound.tick(now + 22)
        assert not mesh.b.inbound.tunnels
        with pytest.raises(REFUSALS):
            await peer.until(lambda: False)


@story
async def test_a_stream_that_is_reset_during_the_dial_leaves_no_connection(mesh: Stage) -> None:
    async with peer_of(mesh) as peer:
        await peer.connect(door(mesh))
        answers = []
        for _ in range(20):
            answer = Answer(peer.connection.open_stream(fields_of([*CONNECT, (":authority", target(mesh))])))
            answers.append(answer)
            await peer.flush()
            answer.stream.reset()
            await peer.flush()
        await mesh.b.log.wait(20)
        assert {record.reason for record in mesh.b.log.records} == {Reason.SOURCE_RESET}
        mesh.listener.setblocking(False)
        while True:  # whatever was connected is reset
            try:
                server, _ = mesh.listener.accept()
            except BlockingIOError:
                break
            server.setblocking(False)
            async with asyncio.timeout(5):
                await mesh.expect_reset(server)
            server.close()


@story
async def test_the_last_bytes_and_the_end_reach_the_application_in_one_segment(mesh: Stage) -> None:
    async with peer_of(mesh) as peer:
        await peer.connect(door(mesh))
        answer = await peer.request(target(mesh))
        server = await mesh.accept()
        segments = _segments_in(server)
        answer.stream.send(b"all of it")
        answer.stream.end()
        await peer.flush()
        assert await mesh.read_to_end(server) == b"all of it"
        assert _segments_in(server) == segments + 1
        await mesh.send(server, b"answer")
        server.shutdown(socket.SHUT_WR)
        await peer.until(lambda: answer.half_closed)
        assert answer.received == b"answer"


def _segments_in(end: socket.socket) -> int:
    """``tcpi_segs_in`` of ``struct tcp_info`` (linux/tcp.h)."""
    return int(struct.unpack_from("=I", end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 144), 140)[0])
