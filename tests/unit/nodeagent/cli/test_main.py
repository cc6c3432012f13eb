from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from nodeagent.capture import held
from nodeagent.capture.cgroups import CgroupError, cgroup_ids_of
from nodeagent.capture.held import Held
from nodeagent.cli import hold
from nodeagent.cli.main import main
from nodeagent.containers.hooks import Creation
from nodeagent.local.server import LocalServer

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


class Agent:
    """Answers on a socket as an agent does."""

    def __init__(self, place: Path) -> None:
        self.here = {"NODEMESH_RUN_DIR": str(place)}
        self.path = place / "default" / "agent.sock"
        self.documents: dict[str, Any] = {"workloads": WORKLOADS}
        self.waited: list[tuple[Held | None, dict[str, Any]]] = []
        self.outcome = ("captured", "")
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _run(self) -> None:
        documents = {name: self._document(name) for name in ("workloads", "status")}
        server = LocalServer(self.path, documents, self._wait)
        self._loop, self._task = asyncio.get_running_loop(), asyncio.ensure_future(server.run())
        self._started.set()
        await asyncio.gather(self._task, return_exceptions=True)
        server.close()

    def _document(self, name: str) -> Callable[[], Awaitable[Any]]:
        async def find() -> Any:
            return self.documents[name]

        return find

    async def _wait(self, held: Held | None, **asked: Any) -> tuple[str, str]:
        self.waited.append((held, asked))
        return self.outcome

    def __enter__(self) -> Agent:
        self._thread.start()
        self._started.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with Agent(tmp_path / "run") as running:
        yield running


def test_a_noun_is_shown_as_a_table_or_as_data(agent: Agent) -> None:
    assert "shop       web-0" in run("workloads", **agent.here).output
    assert json.loads(run("workloads", "-o", "json", **agent.here).output) == WORKLOADS


def test_an_agent_that_does_not_know_the_document_is_told_apart(agent: Agent) -> None:
    result = run("flows", **agent.here)
    assert result.exit_code == 1
    assert f"what answers on {agent.path} is no agent of this version" in result.output


def test_an_agent_of_another_version_is_no_traceback(agent: Agent) -> None:
    agent.documents["status"] = {"node": "a", "splice": "as it once was"}
    result = run("status", **agent.here)
    assert (result.exit_code, "of another version" in result.output) == (1, True)
    assert json.loads(run("status", "-o", "json", **agent.here).output)["node"] == "a"


@pytest.mark.parametrize("noun", ["status", "flows", "workloads"])
def test_no_agent_is_said_clearly(noun: str, tmp_path: Path) -> None:
    result = run(noun, NODEMESH_RUN_DIR=str(tmp_path))
    assert result.exit_code == 1
    assert f"no agent answers on {tmp_path}/default/agent.sock" in result.output
    assert "nodeagent run" in result.output


def test_whoever_takes_the_port_of_a_dead_agent_is_not_asked(tmp_path: Path) -> None:
    """Anybody may: it is above 1024."""

    class Forger(BaseHTTPRequestHandler):
        asked = 0

        def do_GET(self) -> None:
            Forger.asked += 1
            self.send_response(200)
            self.end_headers()
            mine = list(cgroup_ids_of("self"))
            self.wfile.write(json.dumps([{**WORKLOADS[0], "cgroups": mine}]).encode())

    server = HTTPServer(("127.0.0.1", 0), Forger)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    where = {"NODEMESH_PORTS_ADMIN": str(server.server_port), "NODEMESH_RUN_DIR": str(tmp_path)}
    results = [run("wait", "--timeout", "0", **where), run("status", **where), run("doctor", **where)]
    server.shutdown()
    thread.join()
    server.server_close()
    assert ([result.exit_code for result in results], Forger.asked) == ([1, 1, 1], 0)


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
        where = {"NODEMESH_STATE_DIR": str(tmp_path / "s"), "NODEMESH_RUN_DIR": str(tmp_path / "r")}
        result = run("run", NODEMESH_PORTS_ADMIN=port, NODEMESH_CAPTURE="false", **where)
    assert result.exit_code == 1
    assert f"port {port} of 127.0.0.1 cannot be used" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("outcome", "status", "words"),
    [(("captured", ""), 0, ""), (("late", "no workload of this node selects"), 1, "after 0 s: no workload of this")],
)
def test_a_unit_waits_until_the_agent_says_that_it_is_captured(
    agent: Agent, outcome: tuple[str, str], status: int, words: str
) -> None:
    agent.outcome = outcome
    result = run("wait", "--timeout", "0", "--uid", "4321", **agent.here)
    assert (result.exit_code, words in result.output) == (status, True)
    assert agent.waited[0][0] == Held.process("self", f"process {os.getpid()}", 4321)


def test_a_host_without_cgroups_is_said_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(pid: str) -> tuple[int, ...]:
        raise CgroupError("no cgroup v2 file system is mounted")

    monkeypatch.setattr(held, "cgroup_ids_of", none)
    result = run("wait", "--timeout", "0")
    assert (result.exit_code, "no cgroup v2" in result.output) == (1, True)


def test_a_hook_asks_about_the_container_and_not_about_itself(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as container:
        made = Creation("box", container.pid, "/box", 7, {"app": "web"})
        monkeypatch.setattr(hold, "creation", lambda text, mount: made if text == "state" else None)
        environment = {"NODEMESH_NODE": "node-a", **agent.here}
        result = CliRunner().invoke(main, ["oci-hook", "--optional"], input="state", env=environment)
        container.kill()
    assert result.exit_code == 0, result.output
    ((found, asked),) = agent.waited
    assert found is not None and (found.name, asked["optional"]) == ("container box", True)
    assert (tmp_path / "run" / "default.containers" / "box.json").exists()


def test_waiting_without_an_agent_says_so(tmp_path: Path) -> None:
    result = run("wait", "--timeout", "0", NODEMESH_RUN_DIR=str(tmp_path))
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
