from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.wire.address import SocketAddress
from nodeagent.limits.settings import Limits
from nodeagent.reasons import Reason
from nodeagent.telemetry import accesslog
from nodeagent.telemetry.accesslog import MAX_PENDING_BYTES, AccessLog, format_line, open_log, quote
from nodeagent.telemetry.flow import FlowRecord, Reporter
from tests.support.flows import STARTED, record

TCP_KEYS = [
    "src.addr", "src.workload", "src.namespace", "src.identity", "src.cluster", "dst.addr", "dst.hbone_addr",
    "dst.service", "dst.workload", "dst.namespace", "dst.identity", "dst.cluster", "direction", "bytes_sent",
    "bytes_recv", "duration", "error",
]  # fmt: skip
_PAIR = re.compile(r'([a-z._]+)=("(?:[^"\\]|\\.)*"|[^ "=]+)(?: |$)')


def fields(line: str) -> dict[str, str]:
    """A strict reader: everything must be consumed."""
    pairs, position = {}, 0
    while position < len(line):
        match = _PAIR.match(line, position)
        assert match is not None, line[position:]
        pairs[match.group(1)] = match.group(2).strip('"')
        position = match.end()
    return pairs


def test_a_line_has_exactly_the_keys_of_the_convention() -> None:
    found = fields(format_line(record()))
    assert list(found) == ["time", *TCP_KEYS, "reason", "fault", "hint", "traceparent", "src.claimed", "dst.reached"]


def test_a_line_says_what_happened() -> None:
    flow = record(
        reason=Reason.CONNECT_REFUSED, detail="10.0.0.1:8080 refused", ended=STARTED + 0.25, bytes_sent=3,
        bytes_received=9, tunnel_address=SocketAddress("fd00::1", 15008), trace_parent="00-aa-bb-01",
    )  # fmt: skip
    found = fields(format_line(flow))
    assert (found["bytes_sent"], found["bytes_recv"]) == ("3", "9"), "not inverted in the log"
    assert found["duration"] == "250.0ms"
    assert found["error"] == "10.0.0.1:8080 refused"
    assert (found["reason"], found["fault"]) == ("connect-refused", "destination")
    assert "server running" in found["hint"]
    assert found["dst.hbone_addr"] == "[fd00::1]:15008"
    assert found["direction"] == "outbound"
    assert fields(format_line(record(reporter=Reporter.DESTINATION)))["direction"] == "inbound"


def test_a_good_end_has_no_error() -> None:
    found = fields(format_line(record(ended=STARTED)))
    assert (found["error"], found["reason"], found["fault"], found["hint"]) == ("-", "ok", "nobody", "-")


def test_what_is_not_known_is_a_dash() -> None:
    found = fields(format_line(record(source=None, source_principal=None, source_address=None)))
    assert {found[key] for key in ("src.addr", "src.workload", "src.identity")} == {"-"}


@given(st.text())
def test_no_value_can_forge_a_line_or_a_key(text: str) -> None:
    line = f"a={quote(text)} b=1"
    assert line.isprintable()
    assert len(line.splitlines()) == 1
    assert list(fields(line)) == ["a", "b"]


@pytest.mark.parametrize(
    ("value", "quoted"),
    [
        ("plain", "plain"),
        ("", '""'),
        ("two words", '"two words"'),
        ('say "no"', '"say \\"no\\""'),
        ("a=b", '"a=b"'),
        ("x\nlevel=fake", '"x\\nlevel=fake"'),
        ("\x1b[31m", '"\\u{1b}[31m"'),
        ("a\u202eb", '"a\\u{202e}b"'),
        ("back\\slash", '"back\\\\slash"'),
    ],
)
def test_quoting(value: str, quoted: str) -> None:
    assert quote(value) == quoted


class Turn:
    """An event loop's turn, by hand."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def defer(self, call: Callable[[], None]) -> None:
        self.calls.append(call)


def test_lines_of_one_turn_are_handed_over_together_and_reach_the_file(tmp_path: Path) -> None:
    turn = Turn()
    log = AccessLog(str(tmp_path / "log"), turn.defer)
    for _ in range(50):
        log.write(record(established=True))
    assert len(turn.calls) == 1
    turn.calls[0]()
    log.close()
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 50
    assert all(fields(line)["src.workload"] == "client-0" for line in lines)


def test_a_reader_that_does_not_read_costs_lines_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    blocked, release = threading.Event(), threading.Event()

    def stuck(descriptor: int, data: bytes) -> None:
        blocked.set()
        release.wait()

    monkeypatch.setattr(accesslog, "_write_all", stuck)
    turn = Turn()
    log = AccessLog("stdout", turn.defer, limits=Limits(refused_lines=10**6))
    log.write(record())
    log.flush()
    assert blocked.wait(10)
    size = len(format_line(record())) + 1
    for _ in range(MAX_PENDING_BYTES // size + 10):
        log.write(record())
    assert log.dropped >= 9
    release.set()
    log.close()


def test_reopening_follows_a_rotated_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = AccessLog(str(path), Turn().defer)
    path.rename(tmp_path / "log.1")
    log.reopen()
    log.write(record())
    log.close()
    assert len(path.read_text().splitlines()) == 1
    assert (tmp_path / "log.1").read_text() == ""


def test_closing_gives_the_descriptor_back(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        AccessLog(str(tmp_path / "log"), Turn().defer).close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_off_is_no_log() -> None:
    log = open_log("off", Turn().defer)
    log.write(record())
    assert log.dropped == 0


def test_a_path_that_cannot_be_opened_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        open_log(str(tmp_path / "absent" / "log"), Turn().defer)


def test_lines_are_written_when_the_process_exits(tmp_path: Path) -> None:
    script = (
        "from nodeagent.telemetry.accesslog import AccessLog; from tests.support.flows import record\n"
        f"log = AccessLog({str(tmp_path / 'log')!r}, lambda call: None)\n"
        "log.write(record())\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)
    assert len((tmp_path / "log").read_text().splitlines()) == 1


def written(path: Path, records: list[FlowRecord], **limits: int) -> list[dict[str, str]]:
    log = AccessLog(str(path), lambda call: None, limits=Limits(**limits))
    for one in records:
        log.write(one)
    log.close()
    return [fields(line) for line in path.read_text().splitlines()]


def test_refusals_of_one_source_are_summed_and_other_sources_keep_their_lines(tmp_path: Path) -> None:
    refused = [record(reason=Reason.POLICY_DENIED) for _ in range(100)]
    stranger = record(source=None, source_principal=None, reason=Reason.NOT_CAPTURED)
    lines = written(tmp_path / "log", [*refused, stranger], refused_lines=10)
    sums = [line for line in lines if "suppressed" in line]
    assert sum(line.get("reason") == "policy-denied" for line in lines) == 10
    assert sum(line.get("reason") == "not-captured" for line in lines) == 1
    assert sum(int(line["suppressed"]) for line in sums) == 90
    assert {line["source"] for line in sums} == {refused[0].source.uid}
    assert all(line["reasons"].startswith("policy-denied:") for line in sums)


def test_connections_that_were_carried_have_lines_of_their_own(tmp_path: Path) -> None:
    lines = written(
        tmp_path / "log", [record(established=True) for _ in range(50)] + [record(reason=Reason.NO_ENDPOINT)] * 20,
        refused_lines=5, access_lines=40,
    )  # fmt: skip
    assert sum(line.get("reason") == "ok" for line in lines) == 40
    assert sum(line.get("reason") == "no-endpoint" for line in lines) == 5
    assert sum(int(line.get("suppressed", 0)) for line in lines) == 10 + 15


def test_a_sum_is_written_although_nothing_follows(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = AccessLog(str(path), lambda call: call(), limits=Limits(refused_lines=1))
    for _ in range(3):
        log.write(record(reason=Reason.POLICY_DENIED))
    deadline = time.monotonic() + 30
    while "suppressed=2" not in path.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    log.close()
