from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.telemetry.accesslog import quote
from nodeagent.trace.decisions import AccessLogTail, concerns, decision, parse

LINE = (
    "time=2026-11-24T12:53:09.157Z src.addr=10.0.0.1:40000 src.workload=client src.namespace=shop src.identity=- "
    "dst.addr=240.240.0.1:80 dst.workload=web dst.namespace=shop direction=outbound bytes_sent=0 bytes_recv=0 "
    'duration=1.2ms error="not allowed by \\"only-web\\"" reason=policy_denied fault=operator hint="see the policy"\n'
)


@given(st.text())
def test_every_value_that_the_access_log_writes_is_read_back(value: str) -> None:
    text = value if len(value) <= 512 else value[:511] + "…"
    shown = parse(f"a=1 key={quote(value)} b=2") if value else {}
    assert shown.get("key", "") == ("" if text == "-" else text)


def test_a_line_is_the_agents_decision() -> None:
    event = decision(LINE)
    assert event is not None
    assert (event.name, event.workload, event.source, event.destination) == (
        "agent", "shop/client", "10.0.0.1:40000", "240.240.0.1:80",
    )  # fmt: skip
    assert event.time_ns == 1_795_524_789_157_000_000
    assert event.details["reason"] == "policy_denied"
    assert event.details["error"] == 'not allowed by "only-web"'
    assert decision("something else") is None
    assert decision("time=yesterday reason=x") is None
    assert decision("time=0001-01-01T00:00:00Z reason=x") is decision("time=9999-12-31T23:59:59Z reason=x") is None


@pytest.mark.parametrize(
    ("workload", "port", "wanted"),
    [
        (None, None, True), ("shop/client", None, True), ("shop/web", None, True), ("shop/db", None, False),
        (None, 80, True), (None, 40000, True), (None, 8, False), ("shop/client", 8, False), ("shop/db", 80, False),
    ],
)  # fmt: skip
def test_a_narrowed_trace_wants_its_lines_only(workload: str | None, port: int | None, wanted: bool) -> None:
    event = decision(LINE)
    assert event is not None
    assert concerns(event, workload, port) is wanted


def test_only_new_lines_are_read_even_after_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_text(LINE)
    tail = AccessLogTail(path)
    assert list(tail.read()) == []
    with path.open("a") as log:
        log.write(LINE + LINE[:40])
        log.flush()
        assert len(list(tail.read())) == 1
        log.write(LINE[40:])
        log.flush()
        assert len(list(tail.read())) == 1
    path.rename(tmp_path / "access.log.1")
    assert list(tail.read()) == []
    path.write_text(LINE + LINE)
    assert len(list(tail.read())) == 2
    path.write_text(LINE)
    assert len(list(tail.read())) == 1, "truncated"


def test_a_log_that_does_not_exist_yet_is_read_from_its_beginning(tmp_path: Path) -> None:
    tail = AccessLogTail(tmp_path / "access.log")
    assert list(tail.read()) == []
    (tmp_path / "access.log").write_text(LINE)
    assert len(list(tail.read())) == 1
