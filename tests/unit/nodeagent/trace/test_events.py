from __future__ import annotations

import errno
from dataclasses import replace
from datetime import UTC
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.trace.events import BadEventError, document, from_probe, heading, line
from tests.unit.nodeagent.trace.documents import DOCUMENT, said

PORT = 15001


@pytest.mark.parametrize(
    ("changes", "name", "original"),
    [
        ({}, "captured", "240.240.0.1:80"),
        ({"remote": "[::1]:15001", "asked": "[fd6d::1]:80"}, "captured", "[fd6d::1]:80"),
        ({"remote": "10.0.0.9:80"}, "rewritten", "240.240.0.1:80"),
        ({"remote": "127.0.0.1:15002"}, "rewritten", "240.240.0.1:80"),
        ({"remote": "192.0.2.1:80", "asked": "192.0.2.1:80"}, "connect", None),
        ({"remote": "127.0.0.1:80", "asked": "0.0.0.0:80"}, "connect", None),
        ({"remote": "[::1]:80", "asked": "[::]:80"}, "connect", None),
        ({"asked": None}, "connect", None),
        ({"event": "connect-failed", "error": errno.EPERM, "state": "close"}, "refused", None),
        ({"event": "connect-failed", "error": errno.EPERM, "state": "syn-sent"}, "connect-failed", None),
        ({"event": "connect-failed", "error": errno.ECONNREFUSED, "state": "syn-sent"}, "connect-failed", None),
        ({"event": "destroy"}, "destroy", "240.240.0.1:80"),
    ],
)  # fmt: skip
def test_an_event_says_what_the_mesh_made_of_the_connection(
    changes: dict[str, Any], name: str, original: str | None
) -> None:
    event = from_probe(said(**changes), PORT)
    assert (event.name, event.original) == (name, original)


def test_source_is_always_the_clients_end() -> None:
    ends = {"local": "127.0.0.1:15001", "remote": "127.0.0.1:40000"}
    server = from_probe(said(event="accept", side="server", **ends), PORT)
    assert (server.source, server.destination, server.original) == (
        "127.0.0.1:40000", "127.0.0.1:15001", "240.240.0.1:80",
    )  # fmt: skip
    unknown = from_probe(said(event="state", side=None, asked=None, **ends), PORT)
    assert (unknown.source, unknown.destination) == ("127.0.0.1:15001", "127.0.0.1:40000")


def test_lines_for_people() -> None:
    captured = replace(from_probe(said(), PORT), workload="shop/client")
    assert line(captured, UTC) == (
        "12:53:09.157571  captured        client  shop/client           curl/12           127.0.0.1:-            "
        "127.0.0.1:15001        240.240.0.1:80         -"
    )
    assert len(heading().split()) == 9
    end = said(
        event="destroy",
        seconds=1.5,
        bytes_sent=10,
        bytes_received=20,
        retransmits=0,
        error=errno.ECONNRESET,
        state="close",
    )
    assert line(from_probe(end, PORT), UTC).endswith(
        "after 1.500000 s bytes_sent=10 bytes_received=20 retransmits=0 error=ECONNRESET (Connection reset by peer)"
    )
    state = said(event="state", old_state="established", state="fin-wait-1")
    assert line(from_probe(state, PORT), UTC).endswith("established > fin-wait-1")
    reset = said(event="reset-sent", reason="no_socket", state="established")
    assert line(from_probe(reset, PORT), UTC).endswith("in established reason=no_socket")


@pytest.mark.parametrize("time_ns", [-1, -62_135_596_800_000_000_001, 10**30])
def test_a_time_that_nobody_can_write_is_refused(time_ns: int) -> None:
    with pytest.raises(BadEventError, match="no time of an event"):
        from_probe(said(time_ns=time_ns), PORT)


def test_a_process_cannot_fake_a_line() -> None:
    text = line(from_probe(said(comm="x\n12:00 \x1b[2Jreset"), PORT), UTC)
    assert "\n" not in text and "\x1b" not in text
    assert "x?12:00 ?[2Jreset/12" in text


def test_json_keeps_everything() -> None:
    found = document(replace(from_probe(said(event="accept", side="server", client_cgroup=9, client_pid=4), PORT)))
    assert found["time"] == "2026-11-24T12:53:09.157571590Z"
    assert (found["cgroup_id"], found["client_cgroup_id"], found["for_pid"]) == (77, 9, 4)
    assert (found["old_state"], found["state"]) == ("close", "syn-sent")


def test_an_event_of_another_version_is_refused() -> None:
    for key in DOCUMENT.keys() - {"old_state", "state"}:  # which some events do not need
        with pytest.raises(BadEventError, match="not understood"):
            from_probe({name: value for name, value in DOCUMENT.items() if name != key}, PORT)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=3,
)


@given(st.fixed_dictionaries({key: json_values for key in DOCUMENT}))
def test_whatever_the_probe_says_is_an_event_or_refused(raw: dict[str, Any]) -> None:
    try:
        event = from_probe(raw, PORT)
    except BadEventError:
        return
    assert "\n" not in line(event, UTC)
    document(event)
