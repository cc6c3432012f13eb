"""AuthorizationPolicies decide who may connect: new connections and those that are open, at once."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.netns.lab import eventually
from tests.netns.resources import ROOT_NAMESPACE, from_principal, policy
from tests.netns.servers import echo, read_all, roundtrip
from tests.netns.shop import PORT, TARGET_PORT, Behind, Family, Shop
from tests.netns.spot import Spot
from tests.support.pace import patient

AT_ONCE = 2.0
"""Seconds from the end of `meshctl apply` to the reset of an open connection; on a loaded machine."""


def admitted(shop: Shop, behind: Behind, source: Spot, family: Family = Family.V4) -> bool:
    """Whether a new connection carries bytes."""
    try:
        with shop.dial(behind, family, source=source) as connection:
            return roundtrip(connection, b"let me in") == b"let me in"
    except ConnectionResetError:
        return False


def refused(shop: Shop, behind: Behind, source: Spot, family: Family = Family.V4) -> bool:
    """Whether a new connection is reset."""
    return not admitted(shop, behind, source, family)


@contextlib.contextmanager
def connected(shop: Shop, behind: Behind, source: Spot, family: Family = Family.V4) -> Iterator[socket.socket]:
    """An open connection that has carried bytes."""
    with shop.dial(behind, family, source=source) as connection:
        assert roundtrip(connection, b"hello") == b"hello"
        yield connection


def test_deny_resets_what_is_open_and_refuses_what_is_new(shop: Shop, behind: Behind, family: Family) -> None:
    deny = policy("deny-client", "DENY", app=behind.name, rules=[from_principal("client")])
    since = behind.node.access_position()
    with (
        behind.serve(echo) as server,
        connected(shop, behind, shop.client, family) as denied,
        connected(shop, behind, shop.other, family) as allowed,
    ):
        with shop.mesh.applied(deny):
            denied.settimeout(patient(AT_ONCE))
            with pytest.raises(ConnectionResetError):
                denied.recv(1)
            eventually(lambda: server.errors, what="the server sees the reset too")
            assert refused(shop, behind, shop.client, family)
            assert roundtrip(allowed, b"not me") == b"not me"
            assert admitted(shop, behind, shop.other, family)
        eventually(lambda: admitted(shop, behind, shop.client, family), what="admitted again")
    lines = behind.node.access(since=since, reason="policy-revoked", dst_workload=behind.name)
    assert lines and all(line["fault"] == "operator" and line["src.workload"] == "client" for line in lines)
    assert behind.node.access(reason="policy-denied", src_workload="client", dst_workload=behind.name)


def test_with_an_allow_policy_only_those_it_names(shop: Shop, behind: Behind, family: Family) -> None:
    allow = policy("allow-other", "ALLOW", app=behind.name, rules=[from_principal("other")])
    with behind.serve(echo):
        with connected(shop, behind, shop.client, family) as open_before, shop.mesh.applied(allow):
            open_before.settimeout(patient(AT_ONCE))
            with pytest.raises(ConnectionResetError):
                open_before.recv(1)
            assert refused(shop, behind, shop.client, family)
            assert admitted(shop, behind, shop.other, family)
        eventually(lambda: admitted(shop, behind, shop.client, family), what="admitted again")


def test_deny_wins_over_allow(shop: Shop, behind: Behind) -> None:
    with (
        behind.serve(echo),
        shop.mesh.applied(
            policy("allow-both", "ALLOW", app=behind.name, rules=[from_principal("client"), from_principal("other")]),
            policy("deny-client", "DENY", app=behind.name, rules=[from_principal("client")]),
        ),
    ):
        eventually(lambda: refused(shop, behind, shop.client))
        assert admitted(shop, behind, shop.other)


def test_deny_by_default_for_the_whole_mesh(shop: Shop, family: Family) -> None:
    """An ALLOW policy that names nobody, in the root namespace; then one exception."""
    nobody = policy("nobody", "ALLOW", app=None, namespace=ROOT_NAMESPACE)
    exception = policy("client-may", "ALLOW", app="server", rules=[from_principal("client")])
    with shop.server.serve(echo), shop.local.serve(echo):
        with shop.mesh.applied(nobody):
            for behind in (shop.server, shop.local):
                eventually(lambda b=behind: refused(shop, b, shop.client, family), within=AT_ONCE)  # type: ignore[misc]
            with shop.mesh.applied(exception):
                eventually(lambda: admitted(shop, shop.server, shop.client, family))
                assert refused(shop, shop.server, shop.other, family)
                assert refused(shop, shop.local, shop.client, family)
        for behind in (shop.server, shop.local):
            eventually(lambda b=behind: admitted(shop, b, shop.client, family))  # type: ignore[misc]


Source = dict[str, Any]


@pytest.mark.parametrize(
    ("source", "denies"),
    [
        pytest.param({"namespaces": ["shop"]}, True, id="namespace"),
        pytest.param({"namespaces": ["elsewhere"]}, False, id="other namespace"),
        pytest.param({"notNamespaces": ["shop"]}, False, id="not this namespace"),
        pytest.param({"notPrincipals": ["mesh.internal/ns/shop/sa/other"]}, True, id="not another principal"),
        pytest.param({"principals": ["mesh.internal/ns/shop/sa/cl*"]}, True, id="prefix"),
        pytest.param({"ipBlocks": ["10.77.0.0/24", "fd77::/64"]}, True, id="address"),
        pytest.param({"ipBlocks": ["192.0.2.0/24", "2001:db8::/32"]}, False, id="other address"),
    ],
)
def test_what_a_source_may_be(shop: Shop, behind: Behind, source: Source, denies: bool) -> None:
    deny = policy("deny-some", "DENY", app=behind.name, rules=[{"from": [{"source": source}]}])
    marker = policy("deny-marker", "DENY", app=behind.name, rules=[from_principal("remote")])
    with behind.serve(echo), shop.mesh.applied(deny, marker):
        # the marker shows that the agents know both; only then does "still admitted" mean anything
        eventually(lambda: refused(shop, behind, shop.remote))
        assert refused(shop, behind, shop.client) is denies


@pytest.mark.parametrize(
    ("operation", "denies"),
    [
        pytest.param({"ports": [str(TARGET_PORT)]}, True, id="its target port"),
        pytest.param({"ports": [str(PORT)]}, False, id="the service's port is not the workload's"),
        pytest.param({"notPorts": [str(TARGET_PORT)]}, False, id="every other port"),
    ],
)
def test_ports_are_those_of_the_workload(shop: Shop, behind: Behind, operation: Source, denies: bool) -> None:
    deny = policy("deny-port", "DENY", app=behind.name, rules=[{"to": [{"operation": operation}]}])
    marker = policy("deny-marker", "DENY", app=behind.name, rules=[from_principal("remote")])
    with behind.serve(echo), shop.mesh.applied(deny, marker):
        eventually(lambda: refused(shop, behind, shop.remote))
        assert refused(shop, behind, shop.client) is denies


def test_a_refused_client_is_told_by_a_reset_not_by_silence(shop: Shop, behind: Behind, family: Family) -> None:
    deny = policy("deny-client", "DENY", app=behind.name, rules=[from_principal("client")])
    with behind.serve(echo), shop.mesh.applied(deny):
        eventually(lambda: refused(shop, behind, shop.client, family))
        with pytest.raises(ConnectionResetError), shop.dial(behind, family) as connection:
            connection.settimeout(patient(AT_ONCE))
            read_all(connection)
