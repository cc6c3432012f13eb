from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from nodeagent.cli.main import main
from nodeagent.config import Config
from nodeagent.trace import names
from nodeagent.trace.command import Trace, TraceContext, Wishes
from nodeagent.trace.names import NoWorkloadError
from nodeagent.trace.obstacles import CannotTraceError, ExitStatus, Obstacle
from tests.unit.nodeagent.trace.documents import said
from tests.unit.nodeagent.trace.probes import orders, probe

READY = {"ready": {"events": [], "missing": []}}
WORKLOADS = [
    {"namespace": "shop", "name": "client", "cgroups": [77]},
    {"namespace": "shop", "name": "web", "cgroups": []},
]


class Operator:
    """Who looks at the trace."""

    def __init__(self, workloads: Sequence[dict[str, Any]] | None = WORKLOADS) -> None:
        self.lines: list[str] = []
        self.notes: list[str] = []
        self.workloads = workloads

    def around(self) -> TraceContext:
        return TraceContext(workloads=self.answer, write=self.lines.append, note=self.notes.append)

    def answer(self) -> Sequence[dict[str, Any]]:
        if self.workloads is None:
            raise ConnectionRefusedError
        return self.workloads


@pytest.fixture(autouse=True)
def cgroups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "scan", lambda mount: {1: "/", 77: "/shop/client", 78: "/shop/client/below"})


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(node="a", bpffs=tmp_path / "bpf", access_log=str(tmp_path / "access.log"))


def trace(operator: Operator, config: Config, python: str, **wishes: Any) -> list[dict[str, Any]]:
    Trace(python, config, Wishes(as_json=True, **wishes), operator.around()).run()
    return [json.loads(line) for line in operator.lines]


def test_events_are_named_and_counted(config: Config, tmp_path: Path) -> None:
    operator = Operator()
    python = probe(tmp_path / "p", READY, *[{"event": said(cgroup=cgroup)} for cgroup in (78, 1, 77, 1)])
    seen = trace(operator, config, python, count=3, port=80)
    assert [(event["event"], event["workload"], event["cgroup"]) for event in seen] == [
        ("captured", "shop/client", "/shop/client/below"), ("captured", None, "/"),
        ("captured", "shop/client", "/shop/client"),
    ]  # fmt: skip
    assert "3 events" in operator.notes
    order = orders(tmp_path / "p")[0]
    assert (order["port"], order["cgroups"], order["flow_pin"]) == (80, None, None)
    assert order["own_port"] == config.ports.admin, "the trace's own questions to the agent are not in it"


def test_the_admin_port_is_shown_to_who_asks_for_it(config: Config, tmp_path: Path) -> None:
    trace(Operator(), config, probe(tmp_path / "p", READY), seconds=0.3, port=config.ports.admin)
    order = orders(tmp_path / "p")[0]
    assert (order["port"], order["own_port"]) == (config.ports.admin, None)


def test_it_ends_by_itself(config: Config, tmp_path: Path) -> None:
    operator = Operator()
    assert trace(operator, config, probe(tmp_path / "p", READY, {"lost": 2}), seconds=0.4) == []
    assert "2 more were lost: narrow the trace with --workload or --port" in operator.notes


def test_a_workload_is_its_cgroups_as_they_are_now(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodeagent.trace.command.REFRESH_SECONDS", 0.0)
    trace(Operator(), config, probe(tmp_path / "p", READY), workload="client", seconds=0.5)
    first, *later = orders(tmp_path / "p")
    assert first["cgroups"] == [77, 78]
    assert {"cgroups": [77, 78]} in later
    with pytest.raises(NoWorkloadError, match="no workload 'db' is placed on this node"):
        Trace("python", config, Wishes(workload="db"), Operator().around())


def test_without_an_agent_paths_are_shown_and_no_workload_can_be_meant(config: Config, tmp_path: Path) -> None:
    operator = Operator(workloads=None)
    seen = trace(operator, config, probe(tmp_path / "p", READY, {"event": said()}), count=1)
    assert (seen[0]["workload"], seen[0]["cgroup"]) == (None, "/shop/client")
    assert any("no agent answers" in note for note in operator.notes)
    with pytest.raises(ConnectionRefusedError):
        Trace("python", config, Wishes(workload="client"), operator.around())


def test_the_agents_own_words_are_between_the_kernels(config: Config, tmp_path: Path) -> None:
    log = Path(config.access_log)
    then = (
        f"open({str(log)!r}, 'w').write('time=2026-11-24T12:53:09.157Z src.addr=10.0.0.1:4000 src.workload=client '\n"
        "  'src.namespace=shop dst.addr=240.240.0.1:80 direction=outbound reason=policy_denied\\n')\n"
        "for line in sys.stdin: pass"
    )
    seen = trace(Operator(), config, probe(tmp_path / "p", READY, then=then), count=1)
    assert (seen[0]["event"], seen[0]["workload"], seen[0]["reason"]) == ("agent", "shop/client", "policy_denied")


def test_ctrl_c_is_a_good_end(config: Config, tmp_path: Path) -> None:
    operator = Operator()

    def interrupted(line: str) -> None:
        raise KeyboardInterrupt

    around = TraceContext(workloads=operator.answer, write=interrupted, note=operator.notes.append)
    operation = Trace(probe(tmp_path / "p", READY, {"event": said()}), config, Wishes(as_json=True), around)
    operation.run()
    assert operator.notes[-1].endswith("events")


def test_a_table_has_a_heading(config: Config, tmp_path: Path) -> None:
    operator = Operator()
    python = probe(tmp_path / "p", READY, {"event": said()})
    Trace(python, config, Wishes(count=1), operator.around()).run()
    assert operator.lines[0].split()[:3] == ["TIME", "EVENT", "SIDE"]
    assert "captured" in operator.lines[1] and "240.240.0.1:80" in operator.lines[1]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["trace", *arguments], env={"NODEMESH_NODE": "node-a", "NODEMESH_PORTS_ADMIN": "1"})


def test_the_verb_ends_with_the_status_of_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> str:
        raise CannotTraceError([Obstacle(ExitStatus.NO_HEADERS, "install linux-headers-x")])

    monkeypatch.setattr("nodeagent.trace.obstacles.ready_python", missing)
    result = run()
    assert (result.exit_code, result.output) == (5, "nodeagent: cannot trace: install linux-headers-x\n")


def test_the_verb_says_that_no_agent_answers_about_a_workload(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NODEMESH_RUN_DIR", str(tmp_path))
    monkeypatch.setattr("nodeagent.trace.obstacles.ready_python", lambda *_: "python")
    result = run("--workload", "shop/web")
    assert result.exit_code == 1
    assert f"no agent answers on {tmp_path}/default/agent.sock" in result.output


def test_the_verb_traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = probe(tmp_path / "p", READY, {"event": said()})
    monkeypatch.setattr("nodeagent.trace.obstacles.ready_python", lambda *_: python)
    result = run("--count", "1", "-o", "json", "--port", "80")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["event"] == "captured"


@pytest.mark.parametrize(
    "wrong", [("--port", "0"), ("--port", "70000"), ("--count", "0"), ("--seconds", "0"), ("-o", "yaml")]
)
def test_wrong_options_are_usage_errors(wrong: tuple[str, str]) -> None:
    assert run(*wrong).exit_code == 2


def test_the_agent_never_loads_the_trace() -> None:
    """It is for debugging: nothing of it is in a running agent."""
    import subprocess
    import sys

    probe_code = (
        "import sys, nodeagent.main, nodeagent.cli.main\nprint([m for m in sys.modules if 'nodeagent.trace' in m])"
    )
    done = subprocess.run([sys.executable, "-c", probe_code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
