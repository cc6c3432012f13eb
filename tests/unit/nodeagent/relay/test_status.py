"""Rows for people: what is live, in values that JSON can carry."""

from __future__ import annotations

import asyncio
import json

import pytest

from nodeagent.relay import status
from nodeagent.relay.status import flow_rows, tunnel_rows
from tests.support.stories import Stage, story
from tests.unit.nodeagent.flows.test_tracker import CLIENT, WEB, Desk

pytestmark = pytest.mark.interpreted


def test_rows_tell_what_is_live() -> None:
    desk = Desk()
    flow = desk.flow()
    flow.source.received = 5
    desk.time = 103.0
    (row,), truncated = flow_rows(desk.tracker)
    assert not truncated
    assert (row["source"], row["destination"], row["bytes_sent"], row["seconds"]) == (CLIENT.uid, WEB.uid, 5, 3.0)
    assert (row["established"], row["tunnel"], row["path"]) == (True, None, "tunnel")


def test_a_list_that_is_cut_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    monkeypatch.setattr(status, "MAX_ROWS", 2)
    for _ in range(3):
        desk.flow()
    rows, truncated = flow_rows(desk.tracker)
    assert [row["id"] for row in rows] == [1, 2]
    assert truncated


@story
async def test_both_ends_of_a_tunnel_are_listed(mesh: Stage) -> None:
    client, server = await mesh.pair(mesh.VIP_FAR)
    await mesh.echo(client, server)
    ((near,), (far,)) = (tunnel_rows(node.tunnels) for node in (mesh.a, mesh.b))
    assert (near["role"], near["peer"], near["streams"]) == ("client", mesh.far.identity, 1)
    assert (far["role"], far["peer"], far["streams"]) == ("server", mesh.client.identity, 1)
    assert (near["identity"], far["identity"]) == (mesh.client.identity, mesh.far.identity)
    assert str(mesh.b.tunnel_port) in near["remote"]
    ((row,), _), ((seen,), _) = flow_rows(mesh.a.tracker), flow_rows(mesh.b.tracker)
    assert row["traceparent"] == seen["traceparent"] != ""
    assert json.loads(json.dumps([near, far, row, seen]))


@story
async def test_a_tunnel_that_is_being_made_has_no_peer_yet(mesh: Stage) -> None:
    client = mesh.connect(mesh.VIP_FAR)
    while not mesh.a.tunnels:
        await asyncio.sleep(0)
    (row,) = tunnel_rows(mesh.a.tunnels)
    assert (row["remote"], row["peer"]) == (None, None)
    await mesh.echo(client, await mesh.accept())
