from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nodeagent.capture.cgroups import CgroupError
from nodeagent.cli import answers, hold
from nodeagent.cli.main import main

HERE = {"inode": Path("/proc/self/ns/net").stat().st_ino, "own": True, "served": True, "problem": ""}
WORKLOADS = [
    {
        "name": "web-0", "namespace": "shop", "uid": "u", "identity": "spiffe://mesh.internal/ns/shop/sa/web",
        "addresses": [], "ports": [8080], "selector": "/shop/web", "cgroups": [7], "policies": [],
        "network_namespaces": [HERE],
        "problems": [],
    }
]  # fmt: skip


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(main, arguments, env={"NODEMESH_NODE": "node-a", **environment})


@pytest.fixture
def agent() -> Iterator[str]:
    """The port of something that answers like an agent."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(WORKLOADS).encode()
            self.send_response(200 if self.path == "/debug/workloads" else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield str(server.server_port)
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_noun_is_shown_as_a_table_or_as_data(agent: str) -> None:
    assert "shop       web-0" in run("workloads", NODEMESH_PORTS_ADMIN=agent).output
    assert json.loads(run("workloads", "-o", "json", NODEMESH_PORTS_ADMIN=agent).output) == WORKLOADS


def test_another_program_on_the_port_is_told_apart(agent: str) -> None:
    result = run("status", NODEMESH_PORTS_ADMIN=agent)
    assert result.exit_code == 1
    assert f"what listens on 127.0.0.1:{agent} is no agent" in result.output


def test_an_agent_of_another_version_is_no_traceback(agent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "fetch", lambda address, document: {"node": "a", "splice": "as it once was"})
    result = run("status", NODEMESH_PORTS_ADMIN=agent)
    assert (result.exit_code, "of another version" in result.output) == (1, True)
    assert json.loads(run("status", "-o", "json", NODEMESH_PORTS_ADMIN=agent).output)["node"] == "a"


@pytest.mark.parametrize("noun", ["status", "flows", "workloads"])
def test_no_agent_is_said_clearly(noun: str) -> None:
    port = free_port()
    result = run(noun, NODEMESH_PORTS_ADMIN=port)
    assert result.exit_code == 1
    assert f"no agent answers on 127.0.0.1:{port}" in result.output
    assert "nodeagent run" in result.output


@pytest.mark.parametrize("verb", ["run", "load", "unload", "status"])
def test_a_wrong_configuration_stops_every_command(verb: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("nod: a\nworkers: x\n")
    result = run(verb, "--config", str(tmp_path / "c.yaml"))
    assert result.exit_code == 1
    assert "did you mean 'node'?" in result.output
    assert "workers (" in result.output


def test_run_says_in_one_line_why_it_cannot_start(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = run("run", NODEMESH_PORTS_ADMIN=port, NODEMESH_CAPTURE="false", NODEMESH_STATE_DIR=str(tmp_path / "s"))
    assert result.exit_code == 1
    assert f"port {port} of 127.0.0.1 cannot be used" in result.output
    assert "Traceback" not in result.output


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("own", "status", "words"),
    [({7, 1}, 0, ""), ({1, 8}, 1, "no workload of this node selects the cgroup"), (None, 1, "no cgroup v2")],
    ids=["captured", "not captured", "no cgroups"],
)
def test_a_unit_waits_until_it_is_captured(
    agent: str, monkeypatch: pytest.MonkeyPatch, own: set[int] | None, status: int, words: str
) -> None:
    def ids(pid: str) -> frozenset[int]:
        if own is None:
            raise CgroupError("no cgroup v2 file system is mounted")
        return frozenset(own)

    monkeypatch.setattr(hold, "cgroup_ids_of", ids)
    result = run("wait", "--timeout", "0", NODEMESH_PORTS_ADMIN=agent)
    assert result.exit_code == status
    assert words in result.output


def test_an_agent_that_starts_meanwhile_ends_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    given = iter([ConnectionRefusedError(111, "refused"), [], WORKLOADS])

    def fetch(address: str, document: str) -> object:
        answer = next(given)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(answers, "fetch", fetch)
    monkeypatch.setattr(hold, "STEP_SECONDS", 0)
    monkeypatch.setattr(hold, "cgroup_ids_of", lambda pid: frozenset({7}))
    assert run("wait").exit_code == 0
    assert next(given, None) is None


def test_waiting_without_an_agent_says_so() -> None:
    result = run("wait", "--timeout", "0", NODEMESH_PORTS_ADMIN=free_port())
    assert (result.exit_code, "no agent answers" in result.output) == (1, True)


@pytest.mark.parametrize("verb", [[], ["run"], ["wait"], ["status"]])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_is_there_by_both_names(verb: list[str], flag: str) -> None:
    result = run(*verb, flag)
    assert result.exit_code == 0
    assert "..." not in result.output.replace("[ARGS]...", ""), "the short help of a command is cut"


def test_version_is_that_of_the_distribution() -> None:
    assert run("version").output.strip() == version("nodemesh")


def test_the_switches_of_the_splice_are_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NODEMESH_NODE", "node-a")
    monkeypatch.setenv("NODEMESH_RUN_DIR", str(tmp_path / "run"))
    off, clear = tmp_path / "run" / "default.splice-off", tmp_path / "run" / "default.splice-clear"
    for switch, there in (("off", {off}), ("clear", {off, clear}), ("on", {clear}), ("on", {clear})):
        assert run("splice", switch).exit_code == 0
        assert {path for path in (off, clear) if path.exists()} == there, switch
    (tmp_path / "run").rename(tmp_path / "was")
    (tmp_path / "run").write_text("a file")
    result = run("splice", "clear")
    assert result.exit_code == 1
    assert "splice-clear" in result.output
