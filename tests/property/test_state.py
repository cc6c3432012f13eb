"""Whatever deltas came, in whatever order, the view answers as one that was given the end state at once."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.wire.address import SocketAddress
from control.wire.discovery import DiscoveryObject, ServicePort
from control.wire.watch import Change
from nodeagent.state import intake
from nodeagent.state.targets import ServiceTarget, Unresolved
from nodeagent.state.view import NodeState
from tests.support.objects import change, delta, gone, policy, service, snapshot, workload

IPS = ("10.0.0.1", "10.0.0.2", "fd00::1")
PORTS = (80, 8080)
UIDS = ("shop/w-0@1", "shop/w-1@1", "shop/w-2@1")

workloads = st.builds(
    lambda uid, ips, ports, node, policies: workload(
        uid[5:8], uid=uid, addresses=tuple(ips), ports=tuple(ports), node=node, policies=tuple(policies)
    ),
    st.sampled_from(UIDS),
    st.lists(st.sampled_from(IPS), unique=True, max_size=2),
    st.lists(st.sampled_from(PORTS), unique=True, max_size=2),
    st.sampled_from(("node-a", "node-b")),
    st.lists(st.sampled_from(("shop/p", "shop/q")), unique=True, max_size=2),
)
services = st.builds(
    lambda name, ips, ports, endpoints: service(
        name,
        addresses=tuple(ips),
        ports=tuple(ServicePort(name=str(port), port=port, target_port=port) for port in ports),
        endpoints=tuple(endpoints),
    ),
    st.sampled_from(("s", "t")),
    st.lists(st.sampled_from(("240.0.0.1", "10.0.0.1")), unique=True, max_size=2),
    st.lists(st.sampled_from(PORTS), unique=True, max_size=2),
    st.lists(st.sampled_from(UIDS), unique=True, max_size=3),
)
objects: st.SearchStrategy[DiscoveryObject] = st.one_of(
    workloads, services, st.builds(policy, st.sampled_from(("p", "q")))
)
changes = objects.flatmap(
    lambda value: st.sampled_from([change(value), change(value), gone(value), change(value, name=None)])
)


def _answers(view: NodeState) -> dict[str, object]:
    """Everything that can be asked; order within a node or an address is that of arrival and is not compared."""
    answers: dict[str, object] = {
        "workloads": {w.uid: w for w in view.workloads()},
        "services": {s.uid: s for s in view.services()},
        "policies": {p.uid: p for p in view.policies()},
    }
    for ip in (*IPS, "240.0.0.1"):
        answers[f"owners {ip}"] = {w.uid for w in view.owners(ip)}
        for port in (*PORTS, 1):
            target = view.resolve(SocketAddress(ip, port))
            answers[f"resolve {ip} {port}"] = target.reason if isinstance(target, Unresolved) else target
            answers[f"at {ip} {port}"] = view.by_address_port(SocketAddress(ip, port))
    for node in ("node-a", "node-b"):
        answers[node] = {w.uid for w in view.local_workloads(node)}
    for known in view.workloads():
        answers[f"policies {known.uid}"] = view.policies_of(known)
        answers[f"sni {known.uid}"] = view.by_sni(known.sni)
    answers["missing"] = set(view.missing())
    answers["complete"] = view.complete, view.unreadable("policy")
    return answers


@pytest.mark.parametrize("at_once", [0, 2, 64], ids=["beside", "either", "in place"])
@settings(max_examples=80, deadline=None)
@given(batches=st.lists(st.lists(changes, max_size=4), max_size=6))
def test_deltas_lead_where_a_snapshot_leads(at_once: int, batches: list[list[Change]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intake, "AT_ONCE", at_once)
        _follow(batches)


def _follow(batches: list[list[Change]]) -> None:
    view = NodeState()
    view.apply(snapshot())
    final: dict[tuple[str, str], Change] = {}
    for number, batch in enumerate(batches):
        view.apply(delta(*batch, revision=number + 2))
        _answers(view)  # fills whatever is remembered between batches
        for item in batch:
            final[item.kind, item.uid] = item
    fresh = NodeState()
    fresh.apply(snapshot(*final.values()))
    assert _answers(view) == _answers(fresh)


@settings(max_examples=60, deadline=None)
@given(st.lists(objects, max_size=8))
def test_a_service_accounts_for_every_endpoint(items: list[DiscoveryObject]) -> None:
    view = NodeState()
    view.apply(snapshot(*items))
    for known in view.services():
        for ip in known.addresses:
            for port in known.ports:
                target = view.resolve(SocketAddress(ip, port.port))
                if isinstance(target, ServiceTarget):
                    assert len(target.endpoints) + target.missing == len(target.service.endpoints)
