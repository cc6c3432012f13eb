from __future__ import annotations

import json
from pathlib import Path

from nodeagent.config import Config
from nodeagent.identity.rotation import Rotation
from nodeagent.manager import shown
from nodeagent.report import facts
from nodeagent.state.view import NodeState
from nodeagent.telemetry.samples import CounterSample, GaugeSample
from tests.support import pki
from tests.support.objects import bundle, policy, service, snapshot, workload


def test_the_configuration_is_shown_without_its_secrets() -> None:
    document = facts.config_document(Config(node="a", token="nm1.a.secret.b", token_file=Path("/t")))
    assert "secret" not in json.dumps(document)
    assert (document["token"], document["token_file"], document["ports"]["tunnel"]) == ("(set)", "/t", 15008)


def test_the_read_model_is_shown_as_the_wire_has_it() -> None:
    state = NodeState()
    state.apply(snapshot(workload(), service(), policy(), bundle(pki.make_root().pem)))
    document = facts.state_document(state, ["policy x: bad"])
    assert json.loads(json.dumps(document)) == document
    assert (document["revision"], document["rejected"], len(document["workloads"])) == (1, ["policy x: bad"], 1)


def test_workloads_of_this_node_come_with_the_cgroups_that_were_found() -> None:
    state = NodeState()
    state.apply(snapshot(workload(), workload("web-1"), workload("far", node="node-b")))
    rows = shown.workloads_document(state, "node-a", {7: workload().uid, 5: workload().uid})
    assert [(row["name"], row["cgroups"]) for row in rows] == [("web-0", [5, 7]), ("web-1", [])]
    assert rows[0]["selector"] == "/shop/web-0"
    assert [row["problems"] for row in rows] == [[], []]
    uids = [row["uid"] for row in rows]
    clash, other = f"cgroup 7 is selected by {uids[0]} and {uids[1]}: refused", f"workload {uids[0]}0: deep"
    rows = shown.workloads_document(state, "node-a", {}, problems=[clash, other, f"workload {uids[1]}: no"])
    assert [row["problems"] for row in rows] == [[clash], [clash, f"workload {uids[1]}: no"]]


def test_an_identity_says_why_it_cannot_be_used() -> None:
    rotation = Rotation(pki.WEB, lambda: 0.0)
    rotation.requested()
    rotation.refused(1_700_000_000.0, "not placed here")
    document = facts.identity_document(rotation.status(1_700_000_000.0))
    assert (document["usable"], document["last_error"], document["expires"]) == (False, "not placed here", None)
    assert document["next_attempt"] == "2023-11-14T22:13:21+00:00"


def test_errors_are_shown_with_whose_they_are_and_what_to_do() -> None:
    labels = {"reason": "policy-denied", "fault": "operator"}
    samples = [
        CounterSample(name="nodemesh_errors_total", labels={"reason": "from-the-future", "fault": "agent"}, value=1),
        CounterSample(name="nodemesh_errors_total", labels=labels, value=3),
        GaugeSample(name="nodemesh_live_flows", labels={}, value=9),
    ]
    first, second = facts.errors_document(samples)
    assert (first["reason"], first["fault"], first["count"]) == ("policy-denied", "operator", 3)
    assert "AuthorizationPolicy" in first["hint"]
    assert (second["reason"], second["hint"]) == ("from-the-future", "")
