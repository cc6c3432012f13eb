"""Captured connections that leave the mesh for a registered host: over real sockets, without a tunnel."""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import replace

from control.wire.discovery import AppProtocol, ExternalEndpoint, Resolution, Service, ServicePort
from nodeagent.reasons import Reason
from nodeagent.relay.status import flow_rows
from nodeagent.telemetry.flow import Reporter, Security
from nodeagent.telemetry.labels import label_set
from tests.support.objects import external
from tests.support.stories import Stage, story

VIP = "240.240.0.99"
HOST = "api.example.com"


def entry(mesh: Stage, *endpoints: ExternalEndpoint, resolution: Resolution = Resolution.STATIC) -> Service:
    """The test's own server, outside the mesh by name."""
    mesh.V6 = {**mesh.V6, VIP: "fd6d:6573:68::63"}
    port = ServicePort(name="tls", port=443, target_port=mesh.server_port, protocol=AppProtocol.TLS)
    here = endpoints or (ExternalEndpoint(address=mesh.ip if resolution is Resolution.STATIC else HOST),)
    return external(HOST, *here, resolution=resolution, ports=(port,))


def answers(mesh: Stage, *results: tuple[str, ...] | OSError) -> list[str]:
    """What lookups give, the last for ever; the names that were looked up."""
    asked: list[str] = []

    async def lookup(name: str) -> tuple[str, ...]:
        asked.append(name)
        result = results[min(len(asked), len(results)) - 1]
        if isinstance(result, OSError):
            raise result
        return result

    mesh.a.outbound.reach.external.lookup = lookup
    return asked


@story
async def test_bytes_reach_a_static_endpoint_as_they_are(mesh: Stage) -> None:
    mesh.update(entry(mesh))
    client = mesh.connect(VIP, 443)
    server = await mesh.accept()
    await mesh.echo(client, server)
    (row,), _ = flow_rows(mesh.a.tracker)
    assert row["path"] == "external" and row["reached"].endswith(f":{mesh.server_port}")
    await mesh.finish(client, server)
    (record,) = await mesh.records(mesh.a)
    assert (record.reason, record.reporter, record.security) == (Reason.OK, Reporter.SOURCE, Security.NONE)
    assert record.source.uid == mesh.client.uid and record.destination is None
    assert record.reached_address is not None and record.reached_address.port == mesh.server_port
    labels = label_set(record)
    assert labels["destination_service"] == HOST and labels["destination_workload"] == "unknown"


@story
async def test_names_are_looked_up(mesh: Stage) -> None:
    asked = answers(mesh, (mesh.ip,))
    mesh.update(entry(mesh, resolution=Resolution.DNS))
    client = mesh.connect(VIP, 443)
    await mesh.echo(client, await mesh.accept())
    assert asked == [HOST]


@story
async def test_the_next_address_is_tried_where_one_refuses(mesh: Stage) -> None:
    closed = "::2" if ":" in mesh.ip else "127.0.0.2"
    mesh.update(entry(mesh, ExternalEndpoint(address=closed), ExternalEndpoint(address=mesh.ip)))
    for _ in range(8):
        client = mesh.connect(VIP, 443)
        await mesh.echo(client, await mesh.accept())


@story
async def test_an_endpoint_has_ports_of_its_own(mesh: Stage) -> None:
    other = ExternalEndpoint(address=mesh.ip, ports={"tls": mesh.server_port})
    service = replace(entry(mesh, other), ports=(ServicePort(name="tls", port=443, target_port=1),))
    mesh.update(service)
    await mesh.echo(mesh.connect(VIP, 443), await mesh.accept())


@story
async def test_another_port_of_its_own_address_is_not_it(mesh: Stage) -> None:
    mesh.update(replace(entry(mesh), external=replace(entry(mesh).external, endpoints=(  # type: ignore[type-var]
        ExternalEndpoint(address="192.0.2.10"), ExternalEndpoint(address="2001:db8::10"),
    ))))  # fmt: skip
    await mesh.expect_reset(mesh.connect("2001:db8::10" if ":" in mesh.ip else "192.0.2.10", mesh.server_port + 1))
    (record,) = await mesh.records(mesh.a)
    assert record.reason is Reason.UNKNOWN_DESTINATION, "another port of it is not"


@story
async def test_what_fails_says_why(mesh: Stage) -> None:
    mesh.update(entry(mesh, resolution=Resolution.DNS))
    answers(mesh, socket.gaierror(socket.EAI_NONAME, "no such name"))
    await mesh.expect_reset(mesh.connect(VIP, 443))
    answers(mesh, socket.gaierror(socket.EAI_AGAIN, "all servers timed out"))
    await mesh.expect_reset(mesh.connect(VIP, 443))
    mesh.stop_listening()
    answers(mesh, (mesh.ip,))
    await mesh.expect_reset(mesh.connect(VIP, 443))
    records = await mesh.a.log.wait(3)
    assert [r.reason for r in records] == [Reason.NAME_NOT_FOUND, Reason.LOOKUP_FAILED, Reason.CONNECT_REFUSED]
    assert [HOST in r.detail for r in records] == [True, True, False] and mesh.ip in records[2].detail
    assert all(r.service is not None and r.service.hostname == HOST for r in records)


@story
async def test_a_host_that_leaves_the_registry_loses_its_connections(mesh: Stage) -> None:
    service = entry(mesh)
    mesh.update(service)
    client = mesh.connect(VIP, 443)
    server = await mesh.accept()
    await mesh.echo(client, server)
    mesh.update(replace(service, idle_timeout=77))
    await mesh.echo(client, server)
    mesh.update(gone=(("service", service.uid),))
    await mesh.expect_reset(client)
    await mesh.expect_reset(server)
    assert [record.reason for record in await mesh.records(mesh.a)] == [Reason.ENTRY_REMOVED]


@story
async def test_a_client_that_leaves_while_its_name_is_looked_up_leaves_nothing(mesh: Stage) -> None:
    wanted, release = asyncio.Event(), asyncio.Event()

    async def lookup(name: str) -> tuple[str, ...]:
        wanted.set()
        await release.wait()
        return (mesh.ip,)

    mesh.a.outbound.reach.external.lookup = lookup
    mesh.update(entry(mesh, resolution=Resolution.DNS))
    client = mesh.connect(VIP, 443)
    await wanted.wait()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    (record,) = await mesh.records(mesh.a)
    assert record.reason is Reason.SOURCE_RESET and record.reached_address is None
    release.set()
