from __future__ import annotations

import json

import pytest
import yaml

from nodeagent.cli.resets import reset_text
from nodeagent.cli.show import flows_text, show, status_text, workloads_text
from nodeagent.tables import table

STATUS = {
    "node": "node-a",
    "phase": "running",
    "ready": True,
    "blockers": {},
    "warnings": {"control": "unreachable"},
    "control": {"url": "https://c:15010", "connected": False, "revision": 7, "last_error": "refused"},
    "workers": {
        "wanted": 2,
        "serving": 1,
        "restarts": 3,
        "list": [{"index": 0, "pid": 11, "serving": True, "revision": 7, "rejected": []}],
    },
    "certificates": {
        "node": {"joined": True, "trust_domain": "mesh.internal", "expires": "2030", "last_error": ""},
        "identities": [
            {
                "identity": "spiffe://mesh.internal/ns/shop/sa/web",
                "state": "failed",
                "expires": None,
                "last_error": "no\nway",
            }
        ],
    },
    "capture": {
        "enabled": True,
        "programs": {"mesh_connect4": 5},
        "cgroup_root": "/sys/fs/cgroup",
        "pin_dir": "/sys/fs/bpf/nodemesh/default",
        "enrolled": 1,
        "destinations": 2,
        "problems": ["cgroup 7 is contested"],
        "cohabitants": [{"cgroup": "/c", "hook": "inet4_connect", "program_id": 9, "name": "calico"}],
        "counters": {"captured": 4},
    },
    "splice": {
        "on": False,
        "why_not": "the self-test failed: eof: an end was lost",
        "legs_why_not": "the self-test failed: eof: an end was lost",
        "kept_out": {"workloads": [], "services": [], "stuck": {}, "more": 0},
    },
}


def test_status_tells_what_an_operator_asks_first() -> None:
    text = status_text(STATUS)
    for words in (
        "node-a (member of mesh.internal",
        "not connected: refused; state of revision 7",
        "warning:  control: unreachable",
        "1 of 2 serve, 3 restarts",
        "failed",
        "contested",
        "also on inet4_connect of /c: program 9 calico",
        "captured: 4",
        "splice:   off, same-node flows are relayed in userspace: the self-test failed",
    ):
        assert words in text, words


def test_nothing_from_the_network_moves_the_cursor() -> None:
    assert "no?way" in status_text(STATUS)
    assert table(["A"], [["\x1b[2J\r\nx"]]) == "A\n?[2J??x"


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_programs_get_the_whole_document(output: str) -> None:
    read = json.loads if output == "json" else yaml.safe_load
    assert read(show(STATUS, output, status_text)) == STATUS


def test_columns_line_up_and_what_is_not_known_is_a_dash() -> None:
    assert table(["NAME", "PORTS"], [["web", [80, 443]], ["a", None]]) == "NAME  PORTS\nweb   80,443\na     -"


FLOW = {
    "worker": 0, "id": 5, "path": "tunnel", "reporter": "source", "source": "shop/client@4",
    "source_address": "10.0.0.1:43266", "destination": "shop/web-1@1", "destination_address": "240.240.0.1:80",
    "service": "shop/web@1", "tunnel": "10.0.0.2:15008", "security": "mutual_tls", "established": True,
    "bytes_sent": 16, "bytes_received": 20_000_206, "seconds": 1.44, "traceparent": "00-ab-cd-01",
}  # fmt: skip
TUNNEL = {
    "worker": 1, "role": "server", "identity": "spiffe://mesh.internal/ns/shop/sa/web", "remote": "10.0.0.1:42428",
    "peer": "spiffe://mesh.internal/ns/shop/sa/client", "peer_expires": "2030", "streams": 1, "draining": True,
}  # fmt: skip


def rows(text: str) -> list[list[str]]:
    return [line.split("  ") for line in text.splitlines()]


def test_flows_tell_who_speaks_to_whom_by_which_way() -> None:
    local = {**FLOW, "path": "same-node", "tunnel": None, "established": False, "service": None, "seconds": 90_000}
    text = flows_text({"flows": [FLOW, local], "tunnels": [TUNNEL], "truncated": False, "unanswered": 0})
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows(text)]
    assert cells[1] == [
        "out", "shop/client", "10.0.0.1:43266", "shop/web-1", "240.240.0.1:80", "shop/web", "10.0.0.2:15008", "16 B",
        "20.0 MB", "1.4s",
    ]  # fmt: skip
    assert cells[2][0] == "both"
    assert cells[2][5:7] == ["-", "same-node (connecting)"]
    assert cells[2][-1] == "1d"
    assert cells[5] == ["1", "in", TUNNEL["identity"], TUNNEL["peer"], "10.0.0.1:42428", "1", "draining"]


def test_flows_of_another_version_are_shown_as_far_as_they_are_understood() -> None:
    text = flows_text({"flows": [{"worker": 0}], "tunnels": [], "truncated": True, "unanswered": 1})
    assert "no tunnels" in text
    assert "there are more" in text
    assert "1 workers did not answer" in text


def test_errors_come_with_a_count_and_a_hint() -> None:
    errors = [{"reason": "policy-denied", "fault": "operator", "count": 3, "hint": "look there"}]
    assert "3      policy-denied  operator  look there" in status_text({**STATUS, "errors": errors})
    assert "errors: none" in status_text(STATUS)


def test_a_workload_that_does_not_run_says_what_was_looked_for() -> None:
    web = {
        "name": "web", "namespace": "shop", "identity": "i", "ports": [8080], "selector": "web.service", "cgroups": [],
        "policies": ["shop/deny@3"], "network_namespaces": [], "problems": [],
    }  # fmt: skip
    text = workloads_text([web, {**web, "name": "up", "cgroups": [7]}])
    assert "shop/web: no cgroup web.service" in text
    assert "shop/up:" not in text
    assert "shop/web: why" in workloads_text([{**web, "problems": ["why"]}])
    assert "no cgroup" not in workloads_text([{**web, "problems": ["why"]}])
    assert "shop/deny\n" in text


def test_a_workload_in_a_namespace_that_is_not_served_says_why() -> None:
    place = {"inode": 4026532500, "own": False, "served": True, "problem": ""}
    web = {
        "name": "web", "namespace": "shop", "identity": "i", "ports": [8080], "selector": "web.service", "cgroups": [7],
        "policies": [], "problems": [], "network_namespaces": [place, {**place, "inode": 1, "own": True}],
    }  # fmt: skip
    assert "4026532500,node" in workloads_text([web])
    assert "shop/web: network namespace" not in workloads_text([web])
    unserved = {**web, "network_namespaces": [{**place, "served": False, "problem": "the port is taken"}]}
    assert "shop/web: network namespace 4026532500: the port is taken" in workloads_text([unserved])
    unserved = {**web, "network_namespaces": [{**place, "served": False}]}
    assert "shop/web: network namespace 4026532500: nobody listens yet" in workloads_text([unserved])


def test_workloads_without_any_say_where_to_look() -> None:
    assert "meshctl get workloads" in workloads_text([])


def test_the_splice_says_that_it_is_on_or_why_not() -> None:
    assert "relayed in userspace: the self-test failed: eof: an end was lost" in status_text(STATUS)
    items = {"bulk": "pass", "multipath": "not available: no MPTCP"}
    on = {**STATUS["splice"], "on": True, "why_not": "", "flows": 3, "self_test": {"seconds": 0.2, "items": items}}
    text = status_text({**STATUS, "splice": on | {"legs_why_not": ""}})
    assert "on, 3 flows known; self-test of 2 items in 0.2 s; not as expected: multipath" in text
    assert "legs" not in text
    assert "legs to other nodes take TCP: the self-test failed: leg-ends" in status_text(
        {**STATUS, "splice": on | {"legs_why_not": "the self-test failed: leg-ends: lost"}}
    )


def test_whom_the_splice_does_not_carry_is_told() -> None:
    kept = {"workloads": ["shop/a@1"], "services": ["shop/b@2"], "stuck": {"shop/c@3": "out splice"}, "more": 4}
    splice = {"on": True, "legs_why_not": "", "flows": 0, "self_test": {"seconds": 0.2, "items": {}}, "kept_out": kept}
    lines = [line.strip() for line in status_text({**STATUS, "splice": splice}).splitlines()]
    told = [line.removeprefix("relayed: ") for line in lines if line.startswith("relayed: ")]
    assert told == [
        "workload shop/a: switched off by its label",
        "service shop/b: switched off by its label",
        "workload shop/c: a flow of it got stuck (out splice); 'nodeagent splice clear' gives it another try",
        "and 4 more",
    ]


@pytest.mark.parametrize(
    ("because", "via"),
    [("", "splice"), ("a program blocks in recv()", "relay: a program blocks in recv()"), (None, "10.0.0.2:15008")],
)
def test_a_flow_says_whether_it_is_spliced_and_why_not(because: str | None, via: str) -> None:
    text = flows_text({"flows": [{**FLOW, "relayed_because": because}], "tunnels": []})
    assert via in [cell.strip() for cell in rows(text)[1]]


def test_resets_are_a_table_and_a_sum() -> None:
    row = {"local": "10.0.0.1:1", "remote": "10.0.0.2:80", "way": "to the mesh, past it", "pid": 7, "what": "reset"}
    told = {
        "workload": "shop/web@1", "dry_run": False, "trouble": "only root",
        "connections": [row, {**row, "pid": 0, "what": "stands"}],
    }  # fmt: skip
    assert reset_text(told).split("\n") == [
        "RESULT  LOCAL       REMOTE       PROCESS  WAY",
        "reset   10.0.0.1:1  10.0.0.2:80  7        to the mesh, past it",
        "stands  10.0.0.1:1  10.0.0.2:80  -        to the mesh, past it",
        "",
        "shop/web@1: 2 such connections, 1 reset",
        "the others are still open: only root",
    ]
    assert reset_text({**told, "connections": [], "trouble": ""}) == "shop/web@1: 0 such connections, 0 reset"
