"""Whole requests: all or nothing, unchanged means unwritten, and the rules between resources."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from control.kinds.known import KINDS
from control.kinds.service import addresses_of
from control.registry.errors import Invalid, Missing, Stale
from control.registry.registry import MAX_OBJECTS, Registry
from tests.support.mesh import STARTED, Clock, make_registry, node, peer, policy, service, workload


@pytest.fixture
def registry() -> Registry:
    return make_registry()[0]


def actions(registry: Registry, *values: Any) -> list[str]:
    return [outcome.action for outcome in registry.apply(values)]


def refused(registry: Registry, *values: Any) -> list[tuple[int, str, str]]:
    before = registry.revision
    with pytest.raises(Invalid) as error:
        registry.apply(values)
    assert registry.revision == before, "something was written all the same"
    return [(fault.index, fault.field, str(fault)) for fault in error.value.faults]


def test_created_configured_unchanged(registry: Registry) -> None:
    assert actions(registry, workload(), service(), node()) == ["created"] * 3
    assert registry.revision == 1, "one request is one revision"
    assert actions(registry, workload(), service(), node()) == ["unchanged"] * 3
    assert registry.revision == 1
    assert actions(registry, workload(ports=[9000]), service(), node()) == ["configured", "unchanged", "unchanged"]
    assert registry.revision == 2


def test_the_servers_fields_come_back(registry: Registry) -> None:
    registry.apply([node(), policy()])
    registry.apply([policy(action="DENY")])
    metadata = registry.get("AuthorizationPolicy", "shop", "deny").metadata
    assert (metadata.uid, metadata.resource_version) == ("shop/deny@1", "2")
    assert metadata.creation_timestamp == "2023-11-14T22:13:20Z"
    assert registry.get("Node", "", "node-a").uid == "node-a@1"


def test_a_name_used_again_is_another_object(registry: Registry) -> None:
    registry.apply([policy()])
    registry.delete([(("AuthorizationPolicy", "shop", "deny"), None)])
    registry.apply([policy()])
    assert registry.get("AuthorizationPolicy", "shop", "deny").uid == "shop/deny@3"


def test_what_was_read_can_be_written_back(registry: Registry) -> None:
    registry.apply([node(), workload(), service(), policy(), peer()])
    documents = [
        r.document() for r in (*registry.catalogue().of(KINDS["Service"]), *registry.catalogue().of(KINDS["Workload"]))
    ]
    assert actions(registry, *documents) == ["unchanged", "unchanged"]


def test_one_bad_object_stops_the_whole_request(registry: Registry) -> None:
    found = refused(registry, node(), policy(acton="DENY"), workload(ports=[0]))
    assert [(index, field) for index, field, _ in found] == [(1, "spec.acton"), (2, "spec.ports[0]")]
    with pytest.raises(Missing):
        registry.get("Node", "", "node-a")


def test_a_dry_run_says_and_does_nothing(registry: Registry) -> None:
    assert [o.action for o in registry.apply([node(), workload()], dry_run=True)] == ["created", "created"]
    assert registry.revision == 0


def test_the_same_object_twice_in_one_request(registry: Registry) -> None:
    assert "objects 1 and 2" in refused(registry, node(), node())[0][2]


def test_bounds_on_a_request(registry: Registry) -> None:
    assert "at most" in refused(registry, *([node()] * (MAX_OBJECTS + 1)))[0][2]


def test_a_workload_needs_its_node(registry: Registry) -> None:
    ((index, field, text),) = refused(registry, workload())
    assert (index, field) == (0, "spec.node")
    assert "no Node 'node-a'" in text
    assert actions(registry, workload(), node()) == ["created", "created"]


@pytest.mark.parametrize("address", ["10.0.0.7", "fd00::7", "::ffff:10.0.0.7"])
def test_two_workloads_cannot_claim_one_address_and_port(registry: Registry, address: str) -> None:
    registry.apply([node(), workload("a", {}, addresses=["10.0.0.7", "fd00::7"], ports=[80])])
    ((index, field, text),) = refused(
        registry, node("node-b", "10.0.0.2"), workload("b", {}, node="node-b", addresses=[address], ports=[81, 80])
    )
    assert (index, field) == (1, "spec.ports")
    assert "Workload shop/a" in text and "Workload shop/b" in text and ":80" in text
    registry.apply([workload("b", {}, addresses=[address], ports=[81])])


def test_a_service_can_make_two_workloads_clash(registry: Registry) -> None:
    """Neither workload is in the request, yet the request is what would make them claim the same port."""
    registry.apply([node(), workload("a"), workload("b")])
    found = refused(registry, service())
    assert {field for _, field, _ in found} == {"spec.ports"}
    assert "shop/a" in found[0][2] and "shop/b" in found[0][2]
    registry.apply([workload("b", addresses=["10.0.0.9"]), service()])


def test_clients_without_ports_share_their_nodes_address(registry: Registry) -> None:
    registry.apply([node(), workload("a", {}), workload("b", {}), workload("c", {})])


def test_two_workloads_of_a_node_cannot_select_the_same_processes(registry: Registry) -> None:
    registry.apply([node(), node("node-b", "10.0.0.2"), workload("a", {}, selectors={"cgroupPath": "/x"})])
    ((_, field, text),) = refused(registry, workload("b", {}, selectors={"cgroupPath": "/x"}))
    assert field == "spec.selectors"
    assert "shop/a" in text and "shop/b" in text and "cgroupPath /x" in text
    registry.apply([workload("b", {}, node="node-b", selectors={"cgroupPath": "/x"})])


def test_service_addresses_are_unique_and_belong_to_nothing_else(registry: Registry) -> None:
    registry.apply([node(), service("a", addresses=["240.0.0.1"])])
    assert "Service shop/a" in refused(registry, service("b", addresses=["240.0.0.1"]))[0][2]
    assert "Node node-a" in refused(registry, service("b", addresses=["10.0.0.1"]))[0][2]
    assert "Service shop/a" in refused(registry, node("node-b", "240.0.0.1"))[0][2]
    assert refused(registry, workload("w", {}, addresses=["240.0.0.1"]))


@pytest.mark.parametrize("make", [workload, service])
@pytest.mark.parametrize(
    ("label", "text", "words"),
    [
        ("nodemesh.io/splice", "no", "'no' is neither on nor off"),
        ("nodemesh.io/idle-timeout", "soon", "'soon' is not a duration; write for example 90s"),
        ("nodemesh.io/idle-timeout", "400d", "more than 365d; write off for never"),
        ("nodemesh.io/idletimeout", "1h", "labels of nodemesh.io/ are: nodemesh.io/splice, nodemesh.io/dns"),
    ],
)
def test_a_label_of_ours_means_something(registry: Registry, make: Any, label: str, text: str, words: str) -> None:
    labelled = make()
    labelled["metadata"]["labels"] = {"app": "web", label: text}
    with pytest.raises(Invalid) as caught:
        registry.apply([node(), labelled])
    (fault,) = caught.value.faults
    assert (fault.field, words in fault.message) == (f"metadata.labels.{label}", True), fault


@pytest.mark.parametrize(
    ("make", "text", "words"),
    [
        (service, "off", "'off' is no time to connect in; write 1s to 120s"),
        (workload, "5s", "services have this label"),
    ],
)
def test_a_time_to_connect_in_is_said_of_services(registry: Registry, make: Any, text: str, words: str) -> None:
    labelled = make()
    labelled["metadata"]["labels"] = {"app": "web", "nodemesh.io/connect-timeout": text}
    with pytest.raises(Invalid, match=words):
        registry.apply([node(), labelled])


def test_labels_of_ours_that_mean_something_are_taken(registry: Registry) -> None:
    labels = {"app": "web", "nodemesh.io/splice": "off", "nodemesh.io/idle-timeout": "1h", "other.io/x": "soon"}
    registry.apply([node(), workload(labels=labels)])
    assert registry.get("Workload", "shop", "web-0").labels == labels


def test_a_node_in_use_is_not_deleted(registry: Registry) -> None:
    registry.apply([node(), workload()])
    with pytest.raises(Invalid, match="shop/web-0"):
        registry.delete([(("Node", "", "node-a"), None)])
    registry.delete([(("Node", "", "node-a"), None), (("Workload", "shop", "web-0"), None)])
    assert not registry.catalogue().of(KINDS["Node"])


def test_delete_is_all_or_nothing(registry: Registry) -> None:
    registry.apply([policy()])
    keys = [(("AuthorizationPolicy", "shop", "deny"), None), (("Service", "shop", "none"), None)]
    with pytest.raises(Missing) as missing:
        registry.delete(keys)
    assert [(f.index, f.subject) for f in missing.value.faults] == [(1, "Service shop/none")]
    assert registry.get("AuthorizationPolicy", "shop", "deny")
    assert len(registry.delete(keys, ignore_missing=True)) == 1


def test_resource_version_means_if_unchanged(registry: Registry) -> None:
    registry.apply([policy()])
    read = registry.get("AuthorizationPolicy", "shop", "deny").document()
    registry.apply([policy(action="DENY")])
    with pytest.raises(Stale, match="resourceVersion 2"):
        registry.apply([{**read, "spec": {"action": "ALLOW", "rules": [{}]}}])
    with pytest.raises(Stale):
        registry.delete([(("AuthorizationPolicy", "shop", "deny"), "1")])
    registry.delete([(("AuthorizationPolicy", "shop", "deny"), "2")])
    with pytest.raises(Stale, match="does not exist"):
        registry.apply([read])


def addresses(registry: Registry, name: str) -> tuple[str, ...]:
    found = registry.get("Service", "shop", name)
    return addresses_of(found)


def test_virtual_addresses_are_given_kept_and_not_reused(registry: Registry) -> None:
    registry.apply([service("a", selector={"app": "a"}), service("b", selector={"app": "b"})])
    assert addresses(registry, "a") == ("240.240.0.1", "fd6d:6573:68::1")
    assert addresses(registry, "b") == ("240.240.0.2", "fd6d:6573:68::2")
    registry.apply([service("a", selector={"app": "c"})])
    assert addresses(registry, "a") == ("240.240.0.1", "fd6d:6573:68::1"), "an update keeps them"
    registry.delete([(("Service", "shop", "a"), None)])
    registry.apply([service("a", selector={"app": "a"})])
    assert addresses(registry, "a") == ("240.240.0.3", "fd6d:6573:68::3"), "they rest after a deletion"


def test_an_operators_address_wins_and_is_not_given_out(registry: Registry) -> None:
    registry.apply([service("a", addresses=["240.240.0.2"]), service("b"), service("c")])
    assert addresses(registry, "a") == ("240.240.0.2",)
    assert addresses(registry, "b")[0] == "240.240.0.1"
    assert addresses(registry, "c")[0] == "240.240.0.3"
    registry.apply([service("b", addresses=["192.0.2.1"])])
    assert addresses(registry, "b") == ("192.0.2.1",)


def test_a_status_that_is_sent_is_ignored(registry: Registry) -> None:
    registry.apply([{**service("a"), "status": {"addresses": ["10.9.9.9"]}}])
    assert addresses(registry, "a")[0] == "240.240.0.1"


def test_writers_at_the_same_moment_cannot_break_a_rule_between_objects() -> None:
    """Both are right alone; together they would claim one port. Exactly one gets through."""
    registry, _ = make_registry(Clock(STARTED))
    registry.apply([node()])
    outcomes: list[str] = []
    barrier = threading.Barrier(8)

    def write(number: int) -> None:
        barrier.wait()
        try:
            registry.apply([workload(f"w{number}", {}, ports=[80])])
            outcomes.append("applied")
        except Invalid:
            outcomes.append("refused")

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["applied"] + ["refused"] * 7


@pytest.mark.parametrize("name", ["", "a b", "../x", "é", "x" * 600])
def test_a_name_that_cannot_be_is_missing(registry: Registry, name: str) -> None:
    with pytest.raises(Missing):
        registry.get("Workload", "shop", name)
    with pytest.raises(Missing):
        registry.get("Workload", name, "web-0")
    with pytest.raises(Missing):
        registry.delete([(("Workload", name, name), None)])
