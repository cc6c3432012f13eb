from __future__ import annotations

import json

import pytest
import yaml

from nodeagent.show import flows_text, show, status_text, table, workloads_text

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
    "splice": "not built in this version: bytes are relayed in userspace",
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
        "splice:   not built in this version: bytes are relayed in userspace",
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


def test_flows_are_shown_with_the_keys_that_workers_give() -> None:
    document = {
        "flows": [{"worker": 0, "source": "a"}, {"worker": 1, "destination": "b"}],
        "tunnels": [],
        "truncated": True,
        "unanswered": 1,
    }
    text = flows_text(document)
    assert text.splitlines()[0].split() == ["WORKER", "SOURCE", "DESTINATION"]
    assert "no tunnels" in text
    assert "there are more" in text
    assert "1 workers did not answer" in text


def test_workloads_without_any_say_where_to_look() -> None:
    assert "meshctl get workloads" in workloads_text([])
