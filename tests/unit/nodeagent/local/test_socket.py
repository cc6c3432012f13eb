"""Both ends of the agent's socket, over a real one."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nodeagent.capture.held import Held
from nodeagent.local import server as module
from nodeagent.local.client import LocalAgent, RefusedAnswerError
from nodeagent.local.peer import Peer
from nodeagent.local.questions import MAX_QUESTION_BYTES, AgentQuestion, Process
from nodeagent.local.server import LocalServer, LocalSocketError
from nodeagent.local.trust import UntrustedPathError

NOBODY = 65534
ELSEWHERE = Process(cgroups=(1, 2), inode=3, name="container box")
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="another user is played: needs root")


class Agent:
    """A server whose documents and answers the test decides."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[tuple[Held | None, dict[str, Any]]] = []
        self.answer = asyncio.Event()
        self.withdrawn = 0
        self.server = LocalServer(path, {"status": self.status, "broken": self.broken}, self.wait)

    async def status(self) -> dict[str, int]:
        return {"pid": os.getpid()}

    async def broken(self) -> None:
        raise RuntimeError("a defect")

    async def wait(self, held: Held | None, **asked: Any) -> tuple[str, str]:
        self.asked.append((held, asked))
        try:
            await self.answer.wait()
        except asyncio.CancelledError:
            self.withdrawn += 1
            raise
        return "captured", ""

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await asyncio.sleep(0.005)

    async def ask(self, question: AgentQuestion) -> dict[str, Any]:
        return await asyncio.to_thread(LocalAgent(self.path).ask, question)

    async def connected(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, str(self.path))
        return connection


def play(path: Path, story: Callable[[Agent], Awaitable[None]]) -> None:
    async def run() -> None:
        agent = Agent(path)
        task = asyncio.ensure_future(agent.server.run())
        try:
            await story(agent)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            agent.server.close()

    before = len(list(Path("/proc/self/fd").iterdir()))
    asyncio.run(asyncio.wait_for(run(), 40))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert not path.exists(), "nothing is left"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "one" / "agent.sock"


@pytest.fixture
def open_path() -> Iterator[Path]:
    """One that other users get at; pytest's directories are for root alone."""
    with tempfile.TemporaryDirectory(prefix="nodemesh-socket-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory) / "one" / "agent.sock"


def as_user(uid: int, code: str, path: Path) -> str:
    """What a program of this user prints about the socket; ``agent`` is its LocalAgent."""
    text = (
        "import os, sys\nfrom nodeagent.local.client import *\nfrom nodeagent.local.questions import *\n"
        f"os.setgroups([]); os.setgid({uid}); os.setuid({uid})\n"
        f"agent = LocalAgent(__import__('pathlib').Path({str(path)!r}))\n"
        f"try:\n    {code}\nexcept Exception as error:\n    print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False, timeout=30)
    return done.stdout + done.stderr


def test_a_document_is_answered(path: Path) -> None:
    async def story(agent: Agent) -> None:
        assert await asyncio.to_thread(LocalAgent(path).document, "status") == {"pid": os.getpid()}
        with pytest.raises(RefusedAnswerError, match="no document 'flows'"):
            await asyncio.to_thread(LocalAgent(path).document, "flows")
        assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)) == (0o666, 0o755)

    play(path, story)


def test_a_waiting_question_is_asked_once_and_answered_once(path: Path) -> None:
    async def story(agent: Agent) -> None:
        question = AgentQuestion(myself=False, process=ELSEWHERE, seconds=7, optional=True)
        asking = asyncio.ensure_future(agent.ask(question))
        await agent.until(lambda: bool(agent.asked))
        await asyncio.sleep(0.05)
        assert len(agent.asked) == 1 and not asking.done()
        held, asked = agent.asked[0]
        assert held == ELSEWHERE.held
        assert asked == {"asker": "cgroup 1", "privileged": True, "seconds": 7.0, "optional": True}
        agent.answer.set()
        assert await asking == {"outcome": "captured", "why": ""}

    play(path, story)


def test_of_myself_the_agent_believes_the_kernel(path: Path) -> None:
    async def story(agent: Agent) -> None:
        agent.answer.set()
        await agent.ask(AgentQuestion(process=ELSEWHERE))
        await agent.ask(AgentQuestion(process=ELSEWHERE, uid=4321))
        here = Held.process("self", f"process {os.getpid()}")
        assert [held for held, _ in agent.asked] == [here, Held.process("self", here.name, 4321)]
        assert ELSEWHERE.held not in [held for held, _ in agent.asked]

    play(path, story)


def test_of_a_process_that_cannot_be_seen_from_here_what_it_says_is_believed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Peer, "visible", False)

    async def story(agent: Agent) -> None:
        agent.answer.set()
        await agent.ask(AgentQuestion(process=ELSEWHERE))
        assert agent.asked[0][0] == ELSEWHERE.held

    play(path, story)


def test_a_process_that_has_ended_is_not_taken_for_the_next_with_its_number() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = Peer(ours)
        os.close(peer._pidfd)
        child = subprocess.Popen(["/bin/true"])
        peer._pidfd = os.pidfd_open(child.pid)
        child.wait()
        with pytest.raises(ProcessLookupError, match="has ended"):
            peer.held(None)
        peer.close()


def test_who_goes_away_withdraws_the_question(path: Path) -> None:
    async def story(agent: Agent) -> None:
        connection = await agent.connected()
        connection.send(b'{"process": {"cgroups": [1], "inode": 1, "name": "x"}, "seconds": 600}\n')
        await agent.until(lambda: bool(agent.asked))
        connection.close()
        await agent.until(lambda: agent.withdrawn == 1)

    play(path, story)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"nonsense", "not a question"),
        (b'{"seconds": NaN}', "not a question"),
        (b'{"seconds": -1}', "not a number of seconds"),
        (b'{"uid": -1}', "not a user"),
        (b'{"uid": "root"}', "not a question"),
        (b'{"verb": "reset"}', "not a question"),
        (b"[" * 9000 + b"]" * 6000, "not a question"),
        (b'{"document": "' + b"x" * MAX_QUESTION_BYTES, "at most"),
    ],
)
def test_what_is_no_question_is_refused_with_the_reason(path: Path, line: bytes, why: str) -> None:
    async def story(agent: Agent) -> None:
        connection = await agent.connected()
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(connection, line + b"\n")
        assert why in (await loop.sock_recv(connection, 65536)).decode()
        connection.close()
        assert (await agent.ask(AgentQuestion(document="status")))["document"], "the next one is answered"

    play(path, story)


def test_a_question_that_does_not_come_is_not_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ASK_SECONDS", 0.05)

    async def story(agent: Agent) -> None:
        connection = await agent.connected()
        await asyncio.get_running_loop().sock_sendall(connection, b'{"docu')
        assert await asyncio.get_running_loop().sock_recv(connection, 1) == b""
        connection.close()

    play(path, story)


def test_a_defect_in_one_answer_is_logged_and_harms_no_other(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story(agent: Agent) -> None:
        with pytest.raises(ConnectionResetError):
            await agent.ask(AgentQuestion(document="broken"))
        assert (await agent.ask(AgentQuestion(document="status")))["document"]

    play(path, story)
    assert "a defect" in caplog.text


@root_only
def test_whoever_holds_connections_leaves_the_rest_to_others(open_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS_OF_ONE", 3)
    code = (
        "socks = [agent._connect() for _ in range(3)]; [s.send(b'{\"docu') for s in socks];"
        " print(agent.document('status'))"
    )

    async def story(agent: Agent) -> None:
        said = await asyncio.to_thread(as_user, NOBODY, code, open_path)
        assert f"3 connections to the agent's socket at once are the limit for user {NOBODY}" in said
        assert (await agent.ask(AgentQuestion(document="status")))["document"]

    play(open_path, story)


@root_only
def test_a_user_may_ask_about_itself_and_about_nobody_else(open_path: Path) -> None:
    async def story(agent: Agent) -> None:
        agent.answer.set()
        other = "Process(cgroups=(1,), inode=1, name='x')"
        mine = await asyncio.to_thread(as_user, NOBODY, f"print(agent.ask(AgentQuestion(process={other})))", open_path)
        assert "captured" in mine
        ((held, asked),) = agent.asked
        assert held is not None and held.cgroups != (1,)
        assert (asked["asker"], asked["privileged"]) == (f"user {NOBODY}", False)
        said = await asyncio.to_thread(
            as_user, NOBODY, f"print(agent.ask(AgentQuestion(myself=False, process={other})))", open_path
        )
        assert f"only root may ask about other processes than itself; you are user {NOBODY}" in said
        assert len(agent.asked) == 1

    play(open_path, story)


# --- nobody else can pose as the agent ---


@root_only
def test_a_socket_of_another_user_is_not_believed(tmp_path: Path) -> None:
    """In a directory that is root's and that everybody may write to, as /tmp is."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    path = shared / "agent.sock"
    with socket.socket(socket.AF_UNIX) as forged:
        forged.bind(str(path))
        forged.listen()
        os.chown(path, NOBODY, NOBODY)
        with pytest.raises(UntrustedPathError, match=f"was made by user {NOBODY}"):
            LocalAgent(path).document("status")


@root_only
def test_a_listener_of_another_user_is_not_believed_although_the_file_is_roots(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        forged = socket.socket(socket.AF_UNIX)
        forged.bind(str(path))
        os.setuid(NOBODY)
        forged.listen()
        os.write(told, b"x")
        forged.accept()
        os._exit(0)
    try:
        os.read(ready, 1)
        with pytest.raises(UntrustedPathError, match=f"user {NOBODY} listens"):
            LocalAgent(path).document("status")
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(told)


@root_only
@pytest.mark.parametrize("what", ["owner", "writable", "link"])
def test_a_directory_that_others_can_change_is_not_gone_through(tmp_path: Path, what: str) -> None:
    outer = tmp_path / "outer"
    path = outer / "inner" / "agent.sock"
    path.parent.mkdir(parents=True)
    if what == "owner":
        os.chown(outer, NOBODY, NOBODY)
    elif what == "writable":
        outer.chmod(0o777)
    else:
        (tmp_path / "real").mkdir()
        os.chown(tmp_path / "real", NOBODY, NOBODY)
        path.parent.rmdir()
        path.parent.symlink_to(tmp_path / "real")
    with socket.socket(socket.AF_UNIX) as there:
        there.bind(str(path))
        there.listen()
        with pytest.raises(UntrustedPathError, match="could pose as the agent"):
            LocalAgent(path).document("status")
        path.unlink()
        if what != "link":
            with pytest.raises(LocalSocketError, match="could pose as the agent"):
                LocalServer(path, {}, Agent.wait)  # type: ignore[arg-type]


def test_what_is_no_socket_is_not_connected_to(tmp_path: Path) -> None:
    (tmp_path / "agent.sock").touch()
    with pytest.raises(UntrustedPathError, match="not a socket"):
        LocalAgent(tmp_path / "agent.sock").document("status")
    with pytest.raises(FileNotFoundError):
        LocalAgent(tmp_path / "none" / "agent.sock").document("status")


# --- the file ---


def test_what_a_killed_agent_left_is_replaced(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as former:
        former.bind(str(path))
    assert path.exists()

    async def story(agent: Agent) -> None:
        assert (await agent.ask(AgentQuestion(document="status")))["document"]

    play(path, story)


def test_two_agents_do_not_share_a_socket(path: Path) -> None:
    async def story(agent: Agent) -> None:
        with pytest.raises(LocalSocketError, match="another agent has its socket in"):
            Agent(path)
        assert (await agent.ask(AgentQuestion(document="status")))["document"], "it was left alone"

    play(path, story)


def test_a_socket_that_is_not_ours_any_more_is_left(path: Path) -> None:
    agent = Agent(path)
    path.unlink()
    path.touch()
    agent.server.close()
    assert path.exists()


def test_a_path_may_be_longer_than_a_socket_address(tmp_path: Path) -> None:
    async def story(agent: Agent) -> None:
        assert (await agent.ask(AgentQuestion(document="status")))["document"]

    play(tmp_path / ("long" * 20) / ("longer" * 20) / "agent.sock", story)
