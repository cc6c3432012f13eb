"""What a node knows after a batch, and what it answers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from control.wire.address import SocketAddress
from control.wire.discovery import Action, AppProtocol, ServicePort
from control.wire.watch import Batch, Change
from nodeagent.reasons import Reason
from nodeagent.state.targets import MissingPolicy, ServiceTarget, Unresolved, WorkloadTarget
from nodeagent.state.view import NodeState, OutOfOrderError
from tests.support.objects import bundle, change, delta, gone, policy, service, snapshot, workload

VIP = SocketAddress("240.240.0.10", 80)
WEB = workload()
PORT = ServicePort(name="http", port=8080, target_port=8080)


def state(*items: object, **options: object) -> NodeState:
    view = NodeState()
    view.apply(snapshot(*items, **options))  # type: ignore[arg-type]
    return view


def test_before_a_snapshot_nothing_is_known_and_nothing_is_assumed() -> None:
    view = NodeState()
    assert not view.ready
    answer = view.resolve(VIP)
    assert isinstance(answer, Unresolved) and answer.reason is Reason.NOT_READY
    assert view.policies_of(WEB) == MissingPolicy(())
    with pytest.raises(OutOfOrderError, match="before any snapshot"):
        view.apply(delta(WEB))
    assert view.workloads() == () and not view.ready


def test_a_snapshot_makes_it_ready() -> None:
    view = NodeState()
    applied = view.apply(snapshot(WEB, service(), revision=7))
    assert applied.snapshot and applied.rejected == ()
    assert applied.changed == {("workload", WEB.uid), ("service", "shop/web")}
    assert (view.ready, view.revision, view.instance) == (True, 7, "history-1")
    assert view.statistics()["workloads"] == 1


def test_an_empty_mesh_is_ready_too() -> None:
    view = state()
    answer = view.resolve(VIP)
    assert view.ready and isinstance(answer, Unresolved) and answer.reason is Reason.UNKNOWN_DESTINATION


def test_a_snapshot_replaces_everything_and_names_only_differences() -> None:
    other = workload("api-0", addresses=("10.0.0.2",))
    view = state(WEB, service(), bundle("root"))
    applied = view.apply(snapshot(WEB, other, revision=3, instance="history-2"))
    assert applied.changed == {("workload", other.uid), ("service", "shop/web"), ("bundle", "mesh.internal")}
    assert view.instance == "history-2"
    assert isinstance(view.resolve(VIP), Unresolved)
    assert view.bundle("mesh.internal") is None
    assert view.workload(WEB.uid) == WEB


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (delta(revision=4), "after revision 5"),
        (delta(revision=6, instance="history-2"), "cannot follow"),
    ],
)
def test_a_delta_that_cannot_follow_changes_nothing(batch: Batch, message: str) -> None:
    view = state(WEB, revision=5)
    with pytest.raises(OutOfOrderError, match=message):
        view.apply(replace(batch, changes=(gone(WEB),)))
    assert view.workload(WEB.uid) == WEB and view.revision == 5


def test_a_heartbeat_moves_the_revision_only() -> None:
    view = state(WEB)
    applied = view.apply(delta(revision=9))
    assert applied.changed == frozenset() and view.revision == 9


def test_the_same_object_again_is_not_a_change() -> None:
    view = state(WEB)
    assert view.apply(delta(WEB)).changed == frozenset()


def test_resolve_a_service() -> None:
    view = state(WEB, service())
    assert view.resolve(VIP) == ServiceTarget(service(), service().ports[0], (WEB,), 0)


@pytest.mark.parametrize(
    ("sent", "asked"), [("::ffff:240.240.0.10", "240.240.0.10"), ("FD6D:6573:68::1", "fd6d:6573:68::1")]
)
def test_addresses_are_canonical_however_they_were_sent(sent: str, asked: str) -> None:
    view = state(WEB, service(addresses=(sent,)), workload("w6", addresses=("FD00::1",), ports=(90,)))
    target = view.resolve(SocketAddress(asked, 80))
    assert isinstance(target, ServiceTarget) and target.service.addresses == (asked,)
    assert isinstance(view.resolve(SocketAddress("fd00::1", 90)), WorkloadTarget)


def test_resolve_a_workload_address() -> None:
    assert state(WEB).resolve(SocketAddress("10.0.0.1", 8080)) == WorkloadTarget(WEB, 8080)


@pytest.mark.parametrize("address", [SocketAddress("240.240.0.10", 81), SocketAddress("10.0.0.1", 81)])
def test_a_port_that_nobody_has_is_named_with_those_there_are(address: SocketAddress) -> None:
    answer = state(WEB, service()).resolve(address)
    assert isinstance(answer, Unresolved) and answer.reason is Reason.UNKNOWN_DESTINATION
    assert "no port 81" in answer.detail and "80" in answer.detail


def test_a_service_that_knows_an_endpoint_we_do_not_counts_it() -> None:
    view = state(WEB, service(endpoints=(WEB.uid, "shop/web-1@2")))
    target = view.resolve(VIP)
    assert isinstance(target, ServiceTarget) and (target.endpoints, target.missing) == ((WEB,), 1)


def test_an_answer_follows_its_endpoints_and_its_service() -> None:
    second = workload("web-1", addresses=("10.0.0.2",))
    view = state(WEB, service(endpoints=(WEB.uid, second.uid)))
    first = view.resolve(VIP)
    assert isinstance(first, ServiceTarget) and first.missing == 1
    assert view.resolve(VIP) is first, "the hot path is one lookup"

    view.apply(delta(second, revision=2))
    both = view.resolve(VIP)
    assert isinstance(both, ServiceTarget) and both.endpoints == (WEB, second) and both.missing == 0

    moved = replace(second, node="node-b")
    view.apply(delta(moved, revision=3))
    target = view.resolve(VIP)
    assert isinstance(target, ServiceTarget) and target.endpoints == (WEB, moved)

    view.apply(delta(gone(WEB), revision=4))
    target = view.resolve(VIP)
    assert isinstance(target, ServiceTarget) and (target.endpoints, target.missing) == ((moved,), 1)

    grpc = ServicePort(name="grpc", port=81, target_port=9090, protocol=AppProtocol.GRPC)
    view.apply(delta(service(ports=(grpc,)), revision=5))
    assert isinstance(view.resolve(VIP), Unresolved)
    target = view.resolve(SocketAddress(VIP.ip, 81))
    assert isinstance(target, ServiceTarget) and target.port == grpc and target.endpoints == ()

    view.apply(delta(gone(service()), revision=6))
    assert isinstance(view.resolve(SocketAddress(VIP.ip, 81)), Unresolved)


def test_an_address_that_two_services_claim_leads_nowhere_until_one_is_gone() -> None:
    thief = service("thief", endpoints=())
    view = state(WEB, service())
    assert isinstance(view.resolve(VIP), ServiceTarget)
    view.apply(delta(thief))
    answer = view.resolve(VIP)
    assert isinstance(answer, Unresolved) and "shop/thief" in answer.detail and "several" in answer.detail
    view.apply(delta(gone(thief), revision=3))
    assert isinstance(view.resolve(VIP), ServiceTarget)


def test_a_workload_at_an_address_that_services_quarrel_over_is_not_reached_instead() -> None:
    one, two = (service(name, addresses=("10.0.0.1",), ports=(PORT,)) for name in ("one", "two"))
    answer = state(WEB, one, two).resolve(SocketAddress("10.0.0.1", 8080))
    assert isinstance(answer, Unresolved) and "shop/one, shop/two" in answer.detail


def test_a_service_goes_before_a_workload_of_the_same_address() -> None:
    one = service("one", addresses=("10.0.0.1",), ports=(PORT,))
    assert isinstance(state(WEB, one).resolve(SocketAddress("10.0.0.1", 8080)), ServiceTarget)


def test_workloads_of_a_host_network_share_addresses() -> None:
    api = workload("api-0", ports=(9090,), service_account="api")
    view = state(WEB, api)
    assert view.owners("10.0.0.1") == (WEB, api)
    assert view.by_address_port(SocketAddress("10.0.0.1", 9090)) == api
    assert view.by_sni(api.sni.upper()) == api
    assert view.resolve(SocketAddress("10.0.0.1", 8080)) == WorkloadTarget(WEB, 8080)


def test_an_address_and_port_that_two_share_is_nobodys() -> None:
    twin = workload("web-1")
    view = state(WEB, twin)
    address = SocketAddress("10.0.0.1", 8080)
    assert view.by_address_port(address) is None
    answer = view.resolve(address)
    assert isinstance(answer, Unresolved) and "several" in answer.detail
    view.apply(delta(gone(twin)))
    assert view.by_address_port(address) == WEB


@pytest.mark.parametrize("new_first", [True, False])
def test_a_name_used_again_belongs_to_its_new_owner(new_first: bool) -> None:
    again = replace(WEB, uid="shop/web-0@9")
    changes = [change(again), gone(WEB)] if new_first else [gone(WEB), change(again)]
    view = state(WEB)
    view.apply(delta(*changes))
    assert view.by_sni(WEB.sni) == again
    assert view.by_namespace_name("shop", "web-0") == again
    assert view.by_address_port(SocketAddress("10.0.0.1", 8080)) == again
    assert view.owners("10.0.0.1") == (again,)
    assert not view.owns(WEB, "10.0.0.1"), "the address is not the old one's any more"
    assert view.owns(again, "10.0.0.1")


def test_a_service_is_found_by_its_name_as_long_as_that_is_its_own() -> None:
    view = state(service())
    assert view.by_hostname("WEB.shop.mesh.internal") == service()
    view.apply(delta(service(hostname="other.shop")))
    assert view.by_hostname("web.shop.mesh.internal") is None
    assert view.by_hostname("other.shop") == service(hostname="other.shop")
    view.apply(delta(service("twin", hostname="other.shop"), revision=3))
    assert view.by_hostname("other.shop") is None
    view.apply(delta(gone(service("twin")), revision=4))
    assert view.by_hostname("other.shop") == service(hostname="other.shop")


def test_what_is_on_a_node() -> None:
    far = workload("far", node="node-b", addresses=("10.0.0.2",), service_account="far")
    view = state(WEB, workload("web-1", ports=(1,)), far)
    assert [w.name for w in view.local_workloads("node-a")] == ["web-0", "web-1"]
    assert view.identities_on("node-a") == {WEB.identity}
    assert view.identities_on("node-c") == frozenset()
    view.apply(delta(replace(far, node="node-a")))
    assert view.local_workloads("node-b") == () and view.identities_on("node-a") == {WEB.identity, far.identity}


def test_policies_are_those_that_select_the_workload_now() -> None:
    deny, allow = policy("deny"), policy("allow", Action.ALLOW)
    view = state(replace(WEB, policies=(deny.uid,)), deny, allow)
    assert view.policies_of(WEB) == (deny,), "an old object is asked about as it is known now"
    view.apply(delta(replace(WEB, policies=(deny.uid, allow.uid))))
    assert view.policies_of(WEB) == (deny, allow)
    view.apply(delta(WEB, revision=3))
    assert view.policies_of(WEB) == ()


def test_a_policy_that_has_not_arrived_is_missing_and_never_absent() -> None:
    view = state(replace(WEB, policies=("shop/a", "shop/b")), policy("b"))
    assert view.policies_of(WEB) == MissingPolicy(("shop/a",))
    view.apply(delta(policy("a")))
    assert view.policies_of(WEB) == (policy("a"), policy("b"))
    view.apply(delta(gone(policy("b")), revision=3))
    assert view.policies_of(WEB) == MissingPolicy(("shop/b",))


def test_a_workload_that_is_gone_has_no_known_policies() -> None:
    view = state(WEB)
    view.apply(delta(gone(WEB)))
    assert view.policies_of(WEB) == MissingPolicy(())


def test_an_unreadable_policy_is_missing_and_its_former_version_is_not_used() -> None:
    allow = policy("p", Action.ALLOW)
    view = state(replace(WEB, policies=(allow.uid,)), allow)
    applied = view.apply(delta(change(allow, action="AUDIT")))
    assert applied.changed == {("policy", allow.uid)}
    assert len(applied.rejected) == 1 and "action" in applied.rejected[0] and allow.uid in applied.rejected[0]
    assert view.policies_of(WEB) == MissingPolicy((allow.uid,))


def test_an_unreadable_workload_is_gone_and_its_neighbour_is_not() -> None:
    neighbour = workload("web-1", addresses=("10.0.0.2",))
    view = state(WEB, service(endpoints=(WEB.uid, neighbour.uid)))
    applied = view.apply(delta(change(WEB, ports="all"), neighbour))
    assert applied.changed == {("workload", WEB.uid), ("workload", neighbour.uid)}
    assert view.workload(WEB.uid) is None and view.by_sni(WEB.sni) is None and view.owners("10.0.0.1") == ()
    target = view.resolve(VIP)
    assert isinstance(target, ServiceTarget) and (target.endpoints, target.missing) == ((neighbour,), 1)


def test_an_unreadable_object_of_a_snapshot_does_not_survive_from_before() -> None:
    view = state(WEB, bundle("root"))
    applied = view.apply(snapshot(change(WEB, node=None), change(bundle("root"), certificates="x"), revision=2))
    assert len(applied.rejected) == 2
    assert view.workloads() == () and view.bundle("mesh.internal") is None


def test_the_end_of_what_was_never_here_is_nothing() -> None:
    assert state(WEB).apply(delta(Change(kind="workload", uid="shop/other@1"))).changed == frozenset()


def test_bundles_are_kept_apart_by_trust_domain() -> None:
    view = state(bundle("a"), bundle("b", trust_domain="other.example"))
    ours, theirs = view.bundle("mesh.internal"), view.bundle("other.example")
    assert ours is not None and ours.certificates == ("a",)
    assert theirs is not None and theirs.certificates == ("b",)
    assert view.bundle("nobody") is None


def test_what_is_referred_to_and_was_never_sent_is_named() -> None:
    web = workload(policies=("shop/p", "shop/q"))
    view = state(web, service(endpoints=(web.uid, "shop/web-1@1")), policy("p"))
    assert view.missing() == ("policy shop/q", "workload shop/web-1@1")
    view.apply(delta(policy("q"), workload("web-1")))
    assert view.missing() == ()
    view.apply(delta(gone(policy("p")), revision=3))
    assert view.missing() == ("policy shop/p",)


def test_what_was_sent_but_cannot_be_read_is_not_asked_for_again() -> None:
    view = state(workload(policies=("shop/p",)), change(policy("p"), action="MAYBE"))
    assert isinstance(view.policies_of(workload()), MissingPolicy), "it denies all the same"
    assert view.missing() == ()


def test_a_protocol_that_is_not_known_is_carried_as_bytes_and_counted() -> None:
    ports = [
        {"name": "q", "port": 80, "target_port": 8080, "protocol": "quic"},
        {"name": "g", "port": 81, "target_port": 8080, "protocol": "grpc"},
    ]
    view = state(WEB, change(service(), ports=ports))
    target = view.resolve(VIP)
    assert isinstance(target, ServiceTarget) and target.endpoints == (WEB,)
    assert [port.protocol for port in target.service.ports] == [AppProtocol.TCP, AppProtocol.GRPC]
    assert view.statistics()["unknown_values"] == 1 and view.unknown == {"protocol quic": 1}


def test_an_unknown_protocol_does_not_excuse_what_else_is_wrong() -> None:
    bad = [{"name": "q", "port": "80", "target_port": 8080, "protocol": "quic"}]
    view = NodeState()
    assert len(view.apply(snapshot(change(service(), ports=bad))).rejected) == 1
    assert view.services() == ()
