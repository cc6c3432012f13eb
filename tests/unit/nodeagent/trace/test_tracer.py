from __future__ import annotations

from pathlib import Path

import pytest

from nodeagent.trace.obstacles import CannotTraceError, ExitStatus
from nodeagent.trace.tracer import Order, Tracer
from tests.unit.nodeagent.trace.documents import said
from tests.unit.nodeagent.trace.probes import orders, probe

ORDER = Order(15001, 15000, 80, [7], "/sys/fs/bpf/flows", 9)
READY = {"ready": {"events": ["sock:inet_sock_set_state"], "missing": ["tcp:tcp_send_reset"]}}
SECONDS = 20.0


def test_events_come_as_they_are_said(tmp_path: Path) -> None:
    python = probe(tmp_path / "probe", READY, {"event": said()}, {"lost": 3}, {"event": said(event="destroy")})
    with Tracer(python, ORDER) as tracer:
        assert tracer.missing == ("tcp:tcp_send_reset",)
        seen = list(tracer.events(SECONDS))
        while len(seen) < 2:
            seen += tracer.events(SECONDS)
        assert [event["event"] for event in seen] == ["connect", "destroy"]
        assert tracer.lost == 3
        assert list(tracer.events(0)) == []
        tracer.narrow([1, 2])
    assert orders(tmp_path / "probe") == [
        {
            "capture_port": 15001, "own_port": 15000, "port": 80, "cgroups": [7], "flow_pin": "/sys/fs/bpf/flows",
            "flow_entries": 9,
        },
        {"cgroups": [1, 2]},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("says", "then", "status", "words"),
    [
        ([{"failed": "bcc", "text": "no module bcc"}], "", ExitStatus.NO_BCC, "no module bcc"),
        ([{"failed": "tracefs", "text": "no tracepoint"}], "", ExitStatus.NO_TRACEFS, "no tracepoint"),
        ([{"failed": "kernel", "text": "no luck"}], "", ExitStatus.KERNEL_REFUSED, "headers are another kernel's"),
        ([], "print('fatal error: no such file', file=sys.stderr)", ExitStatus.LOST_PROBE, "fatal error: no such file"),
        ([], "print('Traceback')", ExitStatus.LOST_PROBE, "not JSON"),
        ([], "print('[]')", ExitStatus.LOST_PROBE, "not understood"),
        ([], "os.kill(os.getpid(), 9)", ExitStatus.LOST_PROBE, "has died"),
        ([], "print('x' * 3_000_000)", ExitStatus.LOST_PROBE, "has died"),
    ],
)  # fmt: skip
def test_a_probe_that_cannot_work_is_a_clear_message(
    tmp_path: Path, says: list[object], then: str, status: ExitStatus, words: str
) -> None:
    with (
        pytest.raises(CannotTraceError, match=words) as error,
        Tracer(probe(tmp_path / "probe", *says, then=then), ORDER),
    ):
        pass
    assert error.value.status == status


def test_the_compilers_words_are_in_the_message(tmp_path: Path) -> None:
    then = (
        'print(\'error: no member named x\', file=sys.stderr, flush=True); print(\'{"failed": "kernel", "text": "t"}\')'
    )
    with (
        pytest.raises(CannotTraceError, match="error: no member named x"),
        Tracer(probe(tmp_path / "p", then=then), ORDER),
    ):
        pass


def test_a_probe_that_dies_later_ends_the_trace(tmp_path: Path) -> None:
    python = probe(tmp_path / "probe", READY, then="sys.stdin.readline()")
    with Tracer(python, ORDER) as tracer:
        tracer.narrow([])
        with pytest.raises(CannotTraceError, match="has died") as error:
            while True:
                list(tracer.events(SECONDS))
        tracer.narrow([1])  # nobody hears it, nothing breaks
    assert error.value.status == ExitStatus.LOST_PROBE


def test_nothing_is_left_running(tmp_path: Path) -> None:
    with Tracer(probe(tmp_path / "probe", READY), ORDER) as tracer:
        child = tracer._child
    assert child.returncode == 0, "the end of its input ends it"


def test_a_probe_that_does_not_listen_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodeagent.trace.tracer.STOP_SECONDS", 0.05)
    with Tracer(probe(tmp_path / "probe", READY, then="time.sleep(600)"), ORDER) as tracer:
        child = tracer._child
    assert child.returncode == -9
