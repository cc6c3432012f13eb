"""Plans and refusals, from the state alone."""

from __future__ import annotations

from typing import Any

import pytest

from control.wire.address import SocketAddress
from control.wire.discovery import (
    Action,
    AppProtocol,
    ExternalEndpoint,
    MtlsMode,
    Resolution,
    ServicePort,
    SourceMatch,
)
from control.wire.ids import SpiffeId
from nodeagent.policy.authorizer import Authorizer
from nodeagent.reasons import Reason
from nodeagent.relay import decide
from nodeagent.relay.decide import ExternalPlan, InboundPlan, OutboundPlan, PlaintextPlan, Refusal
from nodeagent.state.targets import Place
from nodeagent.state.view import NodeState
from nodeagent.tunnel.request import ConnectRequest, Hostname
from tests.support.objects import delta, external, gone, policy, rule, service, snapshot, workload

CLIENT = workload("client", service_account="client", addresses=("10.0.0.9",), ports=())
WEB = workload(addresses=("10.0.0.1", "fd00::1"))
AWAY = workload("away-0", node="node-b", service_account="away", addresses=("10.0.0.2", "fd00::2"))
SERVICE = service(ports=(ServicePort(name="http", port=80, target_port=8080, protocol=AppProtocol.HTTP),))
AWAY_SERVICE = service("away", addresses=("240.240.0.11", "fd6d:6573:68::b"))
ORIGIN = SocketAddress("127.0.0.1", 40_000)
VIP = SocketAddress("240.240.0.10", 80)


def state_of(*objects: Any) -> NodeState:
    state = NodeState()
    state.apply(snapshot(*(objects or (CLIENT, WEB, AWAY, SERVICE, AWAY_SERVICE))))
    return state


def outbound(state: NodeState, asked_for: SocketAddress, cgroup: int = 1, origin: SocketAddress = ORIGIN):
    return decide.outbound(
        state, "node-a", {1: CLIENT.uid}, (cgroup, origin, asked_for),
        lambda endpoints: endpoints[0] if endpoints else None, Authorizer(state),
    )  # fmt: skip


def test_to_a_service_of_this_node() -> None:
    plan = outbound(state_of(), VIP)
    assert isinstance(plan, OutboundPlan)
    assert (plan.source, plan.destination, plan.service) == (CLIENT, WEB, SERVICE)
    assert plan.address == SocketAddress("10.0.0.1", 8080)
    assert plan.protocol is AppProtocol.HTTP
    assert plan.permit is not None
    assert plan.permit.connection.source_ip == "10.0.0.9", "the loopback address is not the source's"
    assert plan.permit.connection.destination_port == 8080
    assert plan.source_address == SocketAddress("10.0.0.9", 40_000)


@pytest.mark.parametrize(
    ("asked_for", "address"),
    [
        (SocketAddress("240.240.0.11", 80), SocketAddress("10.0.0.2", 8080)),
        (SocketAddress("fd6d:6573:68::b", 80), SocketAddress("fd00::2", 8080)),
        (SocketAddress("fd00::2", 8080), SocketAddress("fd00::2", 8080)),
    ],
)
def test_to_another_node_there_is_no_permit_from_here(asked_for: SocketAddress, address: SocketAddress) -> None:
    plan = outbound(state_of(), asked_for)
    assert isinstance(plan, OutboundPlan)
    assert (plan.destination, plan.address, plan.permit) == (AWAY, address, None)


@pytest.mark.parametrize("ip", AWAY.addresses)
def test_a_workloads_own_address_counts_for_the_service_before_it_at_both_ends(ip: str) -> None:
    later = service("zz", addresses=("240.240.0.12",), endpoints=(AWAY.uid,))
    state, address = state_of(CLIENT, AWAY, later, AWAY_SERVICE), SocketAddress(ip, 8080)
    near, far = outbound(state, address), inbound(state, authority=address)
    assert isinstance(near, OutboundPlan)
    assert isinstance(far, InboundPlan)
    assert near.service == far.service == AWAY_SERVICE
    alone = outbound(state_of(CLIENT, AWAY), address)
    assert isinstance(alone, OutboundPlan)
    assert alone.service is None


def test_a_service_of_one_family_is_reached_through_the_other() -> None:
    only6 = workload("away-0", node="node-b", service_account="away", addresses=("fd00::2",))
    plan = outbound(state_of(CLIENT, only6, AWAY_SERVICE), SocketAddress("240.240.0.11", 80))
    assert isinstance(plan, OutboundPlan)
    assert plan.address == SocketAddress("fd00::2", 8080)


def refused(plan: object, reason: Reason, status: int = 503) -> Refusal:
    assert isinstance(plan, Refusal), plan
    assert (plan.reason, plan.status) == (reason, status)
    assert plan.detail
    return plan


def test_nothing_is_assumed_before_a_snapshot() -> None:
    refused(outbound(NodeState(), VIP), Reason.NOT_READY)


@pytest.mark.parametrize(
    ("cgroup", "objects"),
    [(2, ()), (1, (WEB, SERVICE)), (1, (workload("client", node="node-b"), WEB, SERVICE))],
    ids=["cgroup", "no workload", "elsewhere"],
)
def test_a_source_that_is_not_of_this_node_is_refused(cgroup: int, objects: tuple[Any, ...]) -> None:
    refused(outbound(state_of(*objects), VIP, cgroup), Reason.UNKNOWN_SOURCE)


def test_an_address_outside_the_mesh_is_refused() -> None:
    assert refused(outbound(state_of(), SocketAddress("192.0.2.1", 80)), Reason.UNKNOWN_DESTINATION).source == CLIENT


def test_no_endpoint_and_no_address() -> None:
    assert refused(outbound(state_of(CLIENT, SERVICE), VIP), Reason.NO_ENDPOINT).service == SERVICE
    refused(outbound(state_of(CLIENT, workload(addresses=()), SERVICE), VIP), Reason.NO_ENDPOINT)


def test_policy_holds_on_the_same_node() -> None:
    state = state_of(CLIENT, workload(policies=("shop/p",)), SERVICE, policy("p"))
    assert isinstance(outbound(state, VIP), OutboundPlan)
    state.apply(delta(policy("p", policy().action, rule())))
    plan = refused(outbound(state, VIP), Reason.POLICY_DENIED)
    assert plan.destination is not None
    state.apply(delta(gone(policy("p")), revision=3))
    refused(outbound(state, VIP), Reason.POLICY_MISSING)


# --- inbound: node-b serves AWAY ---

PEER = (SpiffeId.parse(CLIENT.identity), SocketAddress("10.0.0.9", 50_000))
TARGET = SocketAddress("10.0.0.2", 8080)
NAMES = {"k8s.namespace.name": "shop", "k8s.pod.name": "client"}


def inbound(state: NodeState, sni: Any = AWAY, **request: Any):
    request = {"authority": TARGET, **request}
    return decide.inbound(state, "node-b", PEER, sni, ConnectRequest(**request), Authorizer(state))


def test_a_stream_to_the_workload_of_its_tunnel() -> None:
    plan = inbound(state_of(), baggage=NAMES, forwarded_host=AWAY_SERVICE.hostname)
    assert isinstance(plan, InboundPlan)
    assert (plan.destination, plan.address, plan.service, plan.source) == (AWAY, TARGET, AWAY_SERVICE, CLIENT)
    assert plan.connection.source_identity == PEER[0]


def test_a_peer_that_names_no_workload_is_the_one_that_has_its_identity() -> None:
    """Istio's agents send names that are none of the registry's, or none at all."""
    plan = inbound(state_of(), baggage={"service.name": "client"})
    assert isinstance(plan, InboundPlan)
    assert plan.source == CLIENT
    twin = workload("client-1", service_account="client", addresses=("10.0.0.8",), ports=())
    shared = inbound(state_of(CLIENT, twin, AWAY))
    assert isinstance(shared, InboundPlan)
    assert shared.source is None, "a guess is no answer"
    named = inbound(state_of(), baggage={**NAMES, "k8s.pod.name": "web-0"})
    assert isinstance(named, InboundPlan)
    assert named.source is None, "it names another"
    state = state_of(CLIENT, twin, AWAY)
    state.apply(delta(gone(twin)))
    left = inbound(state)
    assert isinstance(left, InboundPlan)
    assert left.source == CLIENT


def test_without_server_name_the_target_tells_the_workload() -> None:
    plan = inbound(state_of(), None)
    assert isinstance(plan, InboundPlan)
    assert plan.destination == AWAY


@pytest.mark.parametrize(
    "authority",
    [
        SocketAddress("10.0.0.2", 8081),
        SocketAddress("192.0.2.1", 8080),
        SocketAddress("10.0.0.1", 8080),
        Hostname("nobody.shop.mesh.internal", 80),
        Hostname(AWAY_SERVICE.hostname, 81),
        Hostname(SERVICE.hostname, 80),
    ],
    ids=str,
)
def test_a_target_that_is_not_the_workloads_is_a_bad_request(authority: object) -> None:
    refused(inbound(state_of(), authority=authority), Reason.BAD_TARGET, 400)


def test_a_service_name_leads_to_the_workloads_target_port() -> None:
    plan = inbound(state_of(), authority=Hostname(AWAY_SERVICE.hostname, 80))
    assert isinstance(plan, InboundPlan)
    assert (plan.address, plan.service) == (TARGET, AWAY_SERVICE)
    refused(inbound(state_of(), None, authority=Hostname(AWAY_SERVICE.hostname, 80)), Reason.BAD_TARGET, 400)


def test_what_was_moved_or_removed_since_the_handshake_is_refused() -> None:
    state = state_of()
    state.apply(delta(workload("away-0", node="node-c", service_account="away", addresses=("10.0.0.2",))))
    refused(inbound(state), Reason.BAD_TARGET, 400)
    state.apply(delta(gone(AWAY), revision=3))
    refused(inbound(state), Reason.BAD_TARGET, 400)


def test_ports_are_those_of_now() -> None:
    state = state_of()
    state.apply(delta(workload("away-0", node="node-b", addresses=("10.0.0.2",), ports=(9090,))))
    refused(inbound(state), Reason.BAD_TARGET, 400)
    assert isinstance(inbound(state, authority=SocketAddress("10.0.0.2", 9090)), InboundPlan)


@pytest.mark.parametrize(
    ("claim", "baggage", "believed"),
    [
        ("10.0.0.9", NAMES, True),
        ("192.0.2.66", NAMES, False),
        ("10.0.0.1", NAMES, False),
        ("10.0.0.9", {}, True),
        ("10.0.0.1", {}, False),
        ("10.0.0.1", {**NAMES, "k8s.pod.name": "web-0"}, False),
    ],
    ids=["own", "nobody's", "another's", "nameless", "nameless, another's", "another's name"],
)
def test_a_claimed_address_counts_only_if_the_proved_identity_owns_it(
    claim: str, baggage: dict[str, str], believed: bool
) -> None:
    state = state_of()
    tunnel = SocketAddress("10.9.9.9", 1)
    request = ConnectRequest(authority=TARGET, forwarded_for=SocketAddress(claim, 7), baggage=baggage)
    plan = decide.inbound(state, "node-b", (PEER[0], tunnel), AWAY, request, Authorizer(state))
    assert isinstance(plan, InboundPlan)
    assert plan.connection.source_ip == (claim if believed else tunnel.ip)
    assert plan.source_address == (SocketAddress(claim, 7) if believed else tunnel)
    assert plan.claimed_address == (None if believed else SocketAddress(claim, 7)), "what is not believed is logged"


def test_a_claimed_service_that_the_workload_is_not_behind_is_dropped() -> None:
    plan = inbound(state_of(), forwarded_host=SERVICE.hostname)
    assert isinstance(plan, InboundPlan)
    assert plan.service == AWAY_SERVICE, "the one of the registry"


def test_policy_has_the_last_word() -> None:
    state = state_of()
    state.apply(delta(workload("away-0", node="node-b", addresses=("10.0.0.2",), policies=("shop/p",))))
    refused(inbound(state), Reason.POLICY_MISSING, 401)
    state.apply(delta(policy("p", policy().action, rule()), revision=3))
    refused(inbound(state), Reason.POLICY_DENIED, 401)
    refused(inbound(NodeState()), Reason.NOT_READY)


def test_the_agent_dials_where_the_application_listens() -> None:
    assert decide.dial_address(WEB, TARGET) == TARGET
    assert decide.dial_address(workload(app_address="127.0.0.1"), TARGET) == SocketAddress("127.0.0.1", 8080)


def test_a_workload_is_dialled_at_an_address_that_its_node_has() -> None:
    both = workload("away-0", node="node-b", addresses=("10.0.0.2", "10.0.0.3"))
    named, at = SocketAddress("10.0.0.2", 8080), SocketAddress("10.0.0.3", 15008)
    own = {"10.0.0.2", "10.0.0.3"}
    assert decide.arrived_address(both, named, at, own.__contains__) == named
    assert decide.arrived_address(both, named, at, {"10.0.0.3"}.__contains__) == SocketAddress("10.0.0.3", 8080)
    elsewhere = workload("away-0", node="node-b", addresses=("10.0.0.2",), tunnel_addresses=("10.0.0.3",))
    assert decide.arrived_address(elsewhere, named, at, set().__contains__) == named, "a container's own address"


def test_every_address_of_a_node_takes_tunnels() -> None:
    known = workload(addresses=("10.0.0.1", "fd00::1", "10.0.0.2"), tunnel_port=7)
    found = decide.tunnel_addresses(known, SocketAddress("10.0.0.2", 80))
    assert [str(address) for address in found] == ["10.0.0.2:7", "10.0.0.1:7", "[fd00::1]:7"]
    inside = workload(addresses=("10.1.0.9",), tunnel_addresses=("10.0.0.1", "fd00::1"), tunnel_port=7)
    found = decide.tunnel_addresses(inside, SocketAddress("fd00::9", 80))
    assert [str(address) for address in found] == ["[fd00::1]:7", "10.0.0.1:7"]


OUTSIDER = SocketAddress("192.0.2.9", 50_000)


def plaintext(state: NodeState, asked_for: SocketAddress):
    return decide.plaintext(state, "node-a", OUTSIDER, asked_for, Authorizer(state))


def test_plaintext_goes_where_it_was_going_and_has_no_identity() -> None:
    plan = plaintext(state_of(), SocketAddress("10.0.0.1", 8080))
    assert isinstance(plan, PlaintextPlan)
    assert (plan.destination, plan.address, plan.service) == (WEB, SocketAddress("10.0.0.1", 8080), SERVICE)
    assert plan.permit.connection.source_identity is None
    assert plan.permit.connection.source_ip == OUTSIDER.ip


@pytest.mark.parametrize(
    ("asked_for", "found"),
    [
        (SocketAddress("10.0.0.1", 8080), "one"),
        (SocketAddress("127.0.0.2", 8080), "two"),
        (SocketAddress("10.0.0.77", 8080), None),
        (SocketAddress("10.0.0.77", 8081), "two"),
        (SocketAddress("10.0.0.1", 9), None),
        (SocketAddress("10.0.0.2", 8080), None),
    ],
    ids=["its address", "where it listens", "of several", "alone with the port", "nobody's port", "another node's"],
)
def test_whose_port_plaintext_asks_for(asked_for: SocketAddress, found: str | None) -> None:
    one = workload("one", addresses=("10.0.0.1",))
    two = workload("two", addresses=("10.0.0.3",), app_address="127.0.0.2", ports=(8080, 8081))
    plan = plaintext(state_of(one, two, AWAY), asked_for)
    if found is None:
        refused(plan, Reason.UNKNOWN_DESTINATION)
    else:
        assert isinstance(plan, PlaintextPlan) and plan.destination.name == found


def test_strict_refuses_plaintext_before_any_policy_and_does_not_touch_the_mesh() -> None:
    state = state_of(CLIENT, workload(mtls_mode=MtlsMode.STRICT, addresses=WEB.addresses), SERVICE)
    refusal = plaintext(state, SocketAddress("10.0.0.1", 8080))
    refused(refusal, Reason.PLAINTEXT_REFUSED)
    assert isinstance(outbound(state, VIP), OutboundPlan)


@pytest.mark.parametrize(
    ("action", "source", "admitted"),
    [
        (Action.ALLOW, SourceMatch(principals=("*",)), False),
        (Action.ALLOW, SourceMatch(ip_blocks=("192.0.2.0/24",)), True),
        (Action.DENY, SourceMatch(ip_blocks=("192.0.2.0/24",)), False),
        (Action.DENY, SourceMatch(principals=("*",)), True),
    ],
)
def test_policy_about_plaintext(action: Action, source: SourceMatch, admitted: bool) -> None:
    made = policy("p", action, rule(source))
    state = state_of(workload(policies=(made.uid,)), made)
    plan = plaintext(state, SocketAddress("10.0.0.1", 8080))
    if admitted:
        assert isinstance(plan, PlaintextPlan)
    else:
        refused(plan, Reason.POLICY_DENIED)


@pytest.mark.parametrize(
    ("asked_for", "places"),
    [
        (SocketAddress("240.240.0.99", 443), (Place("192.0.2.10", 8443), Place("db.example.com", 9))),
        (SocketAddress("fd6d:6573:68::63", 443), (Place("192.0.2.10", 8443), Place("db.example.com", 9))),
    ],
)
def test_to_a_host_outside_the_mesh(asked_for: SocketAddress, places: tuple[Place, ...]) -> None:
    endpoints = (ExternalEndpoint(address="192.0.2.10"), ExternalEndpoint(address="db.example.com", ports={"tls": 9}))
    host = external("api.example.com", *endpoints, resolution=Resolution.DNS)
    plan = outbound(state_of(CLIENT, host), asked_for)
    assert isinstance(plan, ExternalPlan)
    assert (plan.source, plan.service, plan.protocol, plan.places) == (CLIENT, host, AppProtocol.TLS, places)


def test_a_registered_address_leads_to_itself_and_to_one_name() -> None:
    first, second = (
        external(name, ExternalEndpoint(address="192.0.2.10"), ExternalEndpoint(address="192.0.2.11"), addresses=(vip,))
        for name, vip in (("b.example.com", "240.240.0.98"), ("a.example.com", "240.240.0.97"))
    )
    plan = outbound(state_of(CLIENT, first, second), SocketAddress("192.0.2.11", 8443))
    assert isinstance(plan, ExternalPlan)
    assert plan.places == (Place("192.0.2.11", 8443),) and plan.service.hostname == "a.example.com"


def test_a_workloads_address_stays_the_workloads() -> None:
    host = external("api.example.com", ExternalEndpoint(address="10.0.0.1", ports={"tls": 8080}))
    plan = outbound(state_of(CLIENT, WEB, host), SocketAddress("10.0.0.1", 8080))
    assert isinstance(plan, OutboundPlan) and plan.destination == WEB


def test_an_entry_whose_addresses_cannot_be_read_is_not_received() -> None:
    host = external("api.example.com", ExternalEndpoint(address="not an address"))
    state = NodeState()
    applied = state.apply(snapshot(CLIENT, host))
    assert applied.rejected and state.service(host.uid) is None
    assert isinstance(outbound(state, SocketAddress("240.240.0.99", 443)), Refusal)
