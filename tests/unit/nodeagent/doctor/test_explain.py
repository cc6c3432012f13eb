"""What would become of a connection, over a small mesh."""

from __future__ import annotations

from dataclasses import replace

import pytest

from control.wire.discovery import Action, EgressMode, MeshSettings, MtlsMode, SourceMatch
from nodeagent.doctor.command import state_of
from nodeagent.doctor.explain import ConnectionExplanation, UnknownNameError, explain
from nodeagent.report.facts import state_document
from nodeagent.state.view import NodeState
from tests.support.objects import external, policy, rule, service, snapshot, workload

WEB = replace(workload("web-0"), policies=("shop/p",))
CLIENT = workload("client", service_account="client", addresses=("10.0.0.9",), ports=())
FAR = workload("client", "other", node="node-b", addresses=("10.0.0.8",), ports=())
DENY_FAR = policy("p", Action.DENY, rule(SourceMatch(namespaces=("other",))))


@pytest.fixture
def state() -> NodeState:
    state = NodeState()
    state.apply(snapshot(WEB, CLIENT, FAR, service(), DENY_FAR, MeshSettings(uid="mesh", domain="mesh.internal")))
    return state


def whys(told: ConnectionExplanation) -> str:
    return "\n".join(f"{step.what}: {step.why}" for step in told.steps)


@pytest.mark.parametrize("destination", ["web", "shop/web:80", "web.shop.mesh.internal", "240.240.0.10:80"])
def test_a_service_is_reached_by_each_of_its_names(state: NodeState, destination: str) -> None:
    told = explain(state, "shop/client", destination)
    assert told.verdict == "allowed"
    assert told.destination == "240.240.0.10:80"
    assert "10.0.0.1:8080" in whys(told) and "same node node-a" in whys(told)


def test_the_policy_that_decides_is_named(state: NodeState) -> None:
    told = explain(state, "other/client", "web")
    assert told.verdict == "refused"
    assert told.steps[-1].what == "policy shop/p" and not told.steps[-1].good
    assert "mutual TLS to node-a" in whys(told)


def test_a_policy_that_did_not_arrive_refuses() -> None:
    state = NodeState()
    state.apply(snapshot(WEB, CLIENT, service()))
    told = explain(state, "shop/client", "web")
    assert told.verdict == "refused" and "shop/p" in whys(told)


def test_what_is_not_in_the_mesh_bypasses_it(state: NodeState) -> None:
    for destination in ("192.0.2.1:80", "10.0.0.1:9999", "[2001:db8::1]:443"):
        assert explain(state, "shop/client", destination).verdict == "bypasses the mesh"


CONFINED = replace(CLIENT, egress_mode=EgressMode.REGISTRY_ONLY, egress_policy="shop/no-way@7")


@pytest.mark.parametrize(
    ("destination", "verdict"),
    [
        ("192.0.2.1:443", "refused"),
        ("[2001:db8::1]:443", "refused"),
        ("[::ffff:192.0.2.1]:443", "refused"),
        ("10.0.0.1:9999", "refused"),
        ("127.0.0.1:9999", "bypasses the mesh"),
        ("[::1]:9999", "bypasses the mesh"),
        ("web", "allowed"),
    ],
)
def test_the_egress_policy_decides_about_what_is_not_in_the_mesh(destination: str, verdict: str) -> None:
    state = NodeState()
    state.apply(snapshot(replace(WEB, policies=()), CONFINED, service()))
    told = explain(state, "shop/client", destination)
    assert told.verdict == verdict
    assert ("shop/no-way@7" in whys(told) and "EPERM" in whys(told)) == (verdict == "refused")


@pytest.mark.parametrize("destination", ["api.example.com", "240.240.0.99:443", "192.0.2.10:8443"])
def test_a_registered_host_is_reached_whatever_the_egress_policy(destination: str) -> None:
    state = NodeState()
    state.apply(snapshot(CONFINED, external()))
    told = explain(state, "shop/client", destination)
    assert told.verdict == "allowed" and "192.0.2.10 port 8443" in whys(told) and "shop/pay@9" in whys(told)
    assert explain(state, "shop/client", "192.0.2.10:443").verdict == "refused", "another port of it is not registered"
    assert explain(state, "192.0.2.77", destination).verdict == "bypasses the mesh"


def test_who_has_left_bypasses_the_mesh() -> None:
    state = NodeState()
    state.apply(snapshot(WEB, replace(CLIENT, labels={"nodemesh.io/capture": "off"}), service(), DENY_FAR))
    told = explain(state, "shop/client", "web")
    assert told.verdict == "bypasses the mesh" and "nodemesh.io/capture=off" in whys(told)


def test_a_source_that_is_not_captured_is_told(state: NodeState) -> None:
    told = explain(state, "shop/client", "web", captured=())
    assert told.verdict == "refused" and "doctor" in whys(told)


@pytest.mark.parametrize(
    ("mode", "denied", "verdict"),
    [
        (MtlsMode.STRICT, False, "refused"),
        (MtlsMode.PERMISSIVE, False, "allowed"),
        (MtlsMode.PERMISSIVE, True, "refused"),
        (MtlsMode.DISABLE, True, "allowed"),
    ],
)
def test_plaintext_is_met_as_the_mode_says_and_then_as_policy_does(mode: MtlsMode, denied: bool, verdict: str) -> None:
    deny = policy("p", Action.DENY, rule(SourceMatch(ip_blocks=("192.0.2.9" if denied else "192.0.2.10",))))
    state = NodeState()
    state.apply(snapshot(replace(WEB, port_mtls_modes={"8080": mode}), CLIENT, deny))
    told = explain(state, "192.0.2.9", "10.0.0.1:8080")
    assert told.verdict == verdict and mode.value in whys(told)
    mesh = explain(state, "shop/client", "10.0.0.1:8080")
    assert mesh.verdict == "allowed" and mode.value not in whys(mesh)


def test_somebody_outside_has_no_identity(state: NodeState) -> None:
    told = explain(state, "192.0.2.77", "web-0:8080")
    assert "plaintext" in whys(told)


def test_a_service_without_endpoints_refuses(state: NodeState) -> None:
    empty = service("empty", addresses=("240.240.0.77",), endpoints=())
    state.apply(snapshot(WEB, CLIENT, service(), empty, DENY_FAR, revision=2))
    assert explain(state, "shop/client", "empty").verdict == "refused"


@pytest.mark.parametrize(
    ("source", "destination", "says"),
    [
        ("client", "web", "could be"), ("nobody", "web", "no workload"), ("shop/client", "nothing", "is called"),
        ("shop/client", "10.0.0.1", "needs a port"), ("shop/client", "other/client", "no port"),
    ],
)  # fmt: skip
def test_names_that_mean_nothing_are_refused_with_words(
    state: NodeState, source: str, destination: str, says: str
) -> None:
    with pytest.raises(UnknownNameError, match=says):
        explain(state, source, destination)


def test_the_command_line_sees_what_the_agent_sees(state: NodeState) -> None:
    """Through the document of the admin port and back."""
    copy = state_of(state_document(state, ()))
    assert copy.workloads() == state.workloads() and copy.services() == state.services()
    assert copy.policies() == state.policies() and copy.settings == state.settings
    assert explain(copy, "other/client", "web") == explain(state, "other/client", "web")
