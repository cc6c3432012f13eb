"""Captured connections: who may go where, what a change does to those that are open, and what is recorded."""

from __future__ import annotations

import socket
from dataclasses import replace

from control.wire.address import SocketAddress
from control.wire.discovery import Action, AuthorizationPolicy, PolicyRule, SourceMatch
from nodeagent.identity.keys import load_svid
from nodeagent.reasons import Reason
from nodeagent.telemetry.flow import Reporter, Security
from tests.support import pki
from tests.support.relay import workload
from tests.support.stories import Stage, story

DENY = AuthorizationPolicy(
    uid="shop/deny", name="deny", namespace="shop", action=Action.DENY,
    rules=(PolicyRule(sources=(SourceMatch(principals=("mesh.internal/ns/shop/sa/client",)),)),),
)  # fmt: skip


def selected(mesh: Stage, vip: str):
    """The workload behind the address, with the policy."""
    return replace(mesh.near if vip == mesh.VIP_NEAR else mesh.far, policies=(DENY.uid,))


@story(both_paths=True)
async def test_a_policy_that_denies_is_a_reset(mesh: Stage, vip: str) -> None:
    mesh.update(DENY, selected(mesh, vip))
    await mesh.expect_reset(mesh.connect(vip))
    (record,) = await mesh.records(mesh.a)
    assert (record.reason, record.reporter) == (Reason.POLICY_DENIED, Reporter.SOURCE)
    assert record.source.uid == mesh.client.uid
    if vip == mesh.VIP_FAR:
        (record,) = await mesh.records(mesh.b)
        assert (record.reason, record.reporter) == (Reason.POLICY_DENIED, Reporter.DESTINATION)
        assert record.source_principal == mesh.client.identity
        assert DENY.uid in record.detail
    else:
        assert DENY.uid in record.detail


@story(both_paths=True)
async def test_a_policy_that_did_not_arrive_denies(mesh: Stage, vip: str) -> None:
    mesh.update(selected(mesh, vip))
    await mesh.expect_reset(mesh.connect(vip))
    assert await mesh.reasons(mesh.a) == [Reason.POLICY_MISSING]


@story(both_paths=True)
async def test_a_new_policy_resets_what_is_open_and_its_removal_allows_again(mesh: Stage, vip: str) -> None:
    client, server = await mesh.pair(vip)
    await mesh.echo(client, server)
    mesh.update(DENY, selected(mesh, vip))
    await mesh.expect_reset(client)
    await mesh.expect_reset(server)
    decider = mesh.a if vip == mesh.VIP_NEAR else mesh.b
    assert {record.reason for record in await decider.log.wait(1)} == {Reason.POLICY_REVOKED}
    assert (await mesh.a.log.wait(1))[0].reason is Reason.POLICY_REVOKED
    await mesh.expect_reset(mesh.connect(vip))
    mesh.update(replace(selected(mesh, vip), policies=()), gone=(("policy", DENY.uid),))
    client, server = await mesh.pair(vip)
    await mesh.echo(client, server)


@story(both_paths=True)
async def test_a_policy_change_leaves_other_flows_alone(mesh: Stage, vip: str) -> None:
    client, server = await mesh.pair(vip)
    await mesh.echo(client, server)
    other = mesh.VIP_FAR if vip == mesh.VIP_NEAR else mesh.VIP_NEAR
    mesh.update(DENY, selected(mesh, other))
    await mesh.echo(client, server)


@story(both_paths=True)
async def test_a_workload_that_is_removed_loses_its_connections(mesh: Stage, vip: str) -> None:
    client, server = await mesh.pair(vip)
    await mesh.echo(client, server)
    mesh.update(gone=(("workload", mesh.client.uid),))
    await mesh.expect_reset(client)
    await mesh.expect_reset(server)
    assert set(await mesh.reasons(mesh.a, 2 if vip == mesh.VIP_NEAR else 1)) == {Reason.WORKLOAD_REMOVED}


@story(both_paths=True)
async def test_a_connection_is_recorded_with_both_parties(mesh: Stage, vip: str) -> None:
    client, server = await mesh.pair(vip)
    await mesh.echo(client, server, b"12345")
    await mesh.finish(client, server)
    far = vip == mesh.VIP_FAR
    destination = mesh.far if far else mesh.near
    source = (await mesh.a.log.wait(1))[0]
    seen = (await (mesh.b if far else mesh.a).log.wait(1 if far else 2))[-1]
    for record in (source, seen):
        assert record.source == mesh.client
        assert record.destination == destination
        assert record.source_principal == mesh.client.identity
        assert record.destination_principal == destination.identity
        assert record.service.name == destination.name
        assert record.source_address.ip == mesh.ip
        assert (record.bytes_sent, record.bytes_received) == (5, 5)
        assert record.security is (Security.MUTUAL_TLS if far else Security.NONE)
    assert (source.reporter, seen.reporter) == (Reporter.SOURCE, Reporter.DESTINATION)
    assert source.destination_address.port == 80
    assert seen.destination_address == SocketAddress(mesh.ip, mesh.server_port)
    assert source.trace_parent == seen.trace_parent


@story
async def test_a_connection_that_nobody_captured_is_reset(mesh: Stage) -> None:
    client = socket.create_connection((mesh.ip, mesh.a.outbound_port))
    client.setblocking(False)
    mesh.sockets.append(client)
    await mesh.expect_reset(client)
    assert await mesh.reasons(mesh.a) == [Reason.NOT_CAPTURED]


@story
async def test_what_cannot_be_decided_is_reset_with_its_reason(mesh: Stage) -> None:
    cases = [
        (99, SocketAddress(mesh.VIP_FAR, 80), Reason.UNKNOWN_SOURCE),
        (1, SocketAddress(mesh.VIP_FAR, 81), Reason.UNKNOWN_DESTINATION),
        (1, SocketAddress("192.0.2.1", 80), Reason.UNKNOWN_DESTINATION),
    ]
    for number, (cgroup, destination, reason) in enumerate(cases):
        client = mesh.a.dial_socket(mesh.ip, cgroup, destination)
        mesh.sockets.append(client)
        await mesh.expect_reset(client)
        assert (await mesh.a.log.wait(number + 1))[number].reason is reason


@story
async def test_a_service_without_endpoints_is_a_reset(mesh: Stage) -> None:
    mesh.update(gone=(("workload", mesh.far.uid),))
    await mesh.expect_reset(mesh.connect(mesh.VIP_FAR))
    (record,) = await mesh.records(mesh.a)
    assert record.reason is Reason.NO_ENDPOINT
    assert record.service.name == "far"


@story
async def test_without_svid_nothing_leaves_the_node(mesh: Stage) -> None:
    mesh.a.certificates.remove(mesh.client.identity)
    await mesh.expect_reset(mesh.connect(mesh.VIP_FAR))
    (record,) = await mesh.records(mesh.a)
    assert record.reason is Reason.NO_IDENTITY
    assert mesh.client.identity in record.detail
    assert not mesh.b.log.records


@story
async def test_while_it_drains_no_connection_is_taken(mesh: Stage) -> None:
    client, server = await mesh.pair(mesh.VIP_FAR)
    await mesh.echo(client, server)
    mesh.a.services.drains = True
    await mesh.expect_reset(mesh.connect(mesh.VIP_NEAR))
    assert await mesh.reasons(mesh.a) == [Reason.AGENT_SHUTDOWN]
    await mesh.echo(client, server)


@story
async def test_what_is_left_when_the_drain_time_is_over_is_reset(mesh: Stage) -> None:
    ends = [await mesh.pair(vip) for vip in (mesh.VIP_NEAR, mesh.VIP_FAR)]
    for client, server in ends:
        await mesh.echo(client, server)
    assert mesh.a.tracker.shut_down() == 2
    for client, server in ends:
        await mesh.expect_reset(client)
        await mesh.expect_reset(server)
    assert set(await mesh.reasons(mesh.a, 3)) == {Reason.AGENT_SHUTDOWN}


@story
async def test_an_endpoint_whose_agent_refuses_our_certificate_is_left_out(mesh: Stage) -> None:
    """Failures after the dial count too: else the endpoint that fails fastest draws all connections."""
    foreign = pki.make_svid(pki.make_root(), mesh.client.identity)
    mesh.a.certificates.put(load_svid(foreign.chain_pem, foreign.key_pem))
    for _ in range(3):
        await mesh.expect_reset(mesh.connect(mesh.VIP_FAR))
    await mesh.a.log.wait(3)
    assert {record.reason for record in mesh.a.log.records} == {Reason.TLS_FAILURE}
    assert mesh.a.outbound.reach.balancer._failures == {mesh.far.uid: 3}
    other = workload("other", "a", 1, addresses=(mesh.ip,))
    assert mesh.a.outbound.reach.balancer.choose([mesh.far, other], mesh.loop.time()) is other


@story(app_address="127.0.0.1")
async def test_an_application_may_listen_elsewhere_than_at_its_address(mesh: Stage) -> None:
    """The workload's address is that of its node; the agent connects to ``app_address``."""
    if mesh.ip == "127.0.0.1":
        client, server = await mesh.pair(mesh.VIP_FAR)
        await mesh.echo(client, server)
    else:  # nobody listens on 127.0.0.1 at that port
        await mesh.expect_reset(mesh.connect(mesh.VIP_FAR))
        assert await mesh.reasons(mesh.b) == [Reason.CONNECT_REFUSED]
