"""The manager as a whole, over loopback and without root: a control that a test plays, workers that carry nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from control.wire.signing import SVID_PATH
from control.wire.watch import WATCH_PATH, Batch
from nodeagent.admin.server import AdminError
from nodeagent.client.join import JoinError, NodeCredential
from nodeagent.client.statefile import StateDirectory, StateDirectoryError
from nodeagent.config import Config, Ports
from nodeagent.local.client import LocalAgent
from nodeagent.local.questions import AgentQuestion, Process
from nodeagent.main import Agent
from nodeagent.notify import ServiceManager
from tests.support import pki
from tests.support.fake_control import FakeControl
from tests.support.objects import bundle, line, snapshot, workload
from tests.unit.nodeagent.client.test_join import control_of, token


def free_ports(count: int) -> list[int]:
    """Ports below those that outgoing connections are given, so that nobody takes one before it is bound."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket(socket.AF_INET6) as probe, contextlib.suppress(OSError):
            probe.bind(("::", port))
            ports.append(port)
    return ports


def settings(tmp_path: Path, **changes: Any) -> Config:
    outbound, tunnel, admin, metrics, ready = free_ports(5)
    ports = Ports(outbound=outbound, tunnel=tunnel, admin=admin, metrics=metrics, ready=ready)
    values: dict[str, Any] = {"node": "node-a", "state_dir": tmp_path / "state", "ports": ports, "workers": 2,
                              "run_dir": tmp_path / "run"}  # fmt: skip
    return Config(**{**values, "drain_seconds": 0.2, **changes})


def command(tmp_path: Path) -> tuple[str, ...]:
    directory = tmp_path / "workers"
    directory.mkdir(exist_ok=True)
    return (sys.executable, "-m", "tests.support.fake_worker", "--directory", str(directory))


class Running:
    """An agent and its HTTP face."""

    def __init__(self, config: Config, agent: Agent, client: httpx.AsyncClient) -> None:
        self.config, self.agent, self.client = config, agent, client

    async def debug(self, name: str) -> Any:
        return (await self.client.get(f"http://127.0.0.1:{self.config.ports.admin}/debug/{name}")).json()

    async def ready(self) -> httpx.Response:
        return await self.client.get(f"http://127.0.0.1:{self.config.ports.ready}/ready")

    async def metrics(self) -> str:
        return (await self.client.get(f"http://127.0.0.1:{self.config.ports.metrics}/metrics")).text

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        while not await condition():
            await asyncio.sleep(0.01)

    async def is_ready(self) -> bool:
        return (await self.ready()).status_code == 200


@asynccontextmanager
async def running(config: Config, tmp_path: Path, service: ServiceManager | None = None) -> AsyncIterator[Running]:
    agent = Agent(config, None, command(tmp_path), service)
    task = asyncio.ensure_future(agent.run())
    async with httpx.AsyncClient(trust_env=False) as client:
        here = Running(config, agent, client)
        try:
            yield here
        finally:
            agent.stop()
            await task


def play(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 60))


def full_control(root: pki.Authority, batch: Batch) -> FakeControl:
    """Joins, signs, and sends one batch a watch; then it hangs up, as a control that restarts would."""

    fake = control_of(root)
    fake.answers[WATCH_PATH] = lambda _: (200, line(batch))
    fake.answers[SVID_PATH] = lambda body: (200, {"chain": pki.sign_csr(root, body["csr"])})
    return fake


def test_from_a_token_to_ready(tmp_path: Path) -> None:
    root = pki.make_root()
    fake = full_control(root, snapshot(workload(), bundle(root.pem), revision=7))

    async def story() -> None:
        async with fake.running(), running(settings(tmp_path, control=fake.url, token=token(root)), tmp_path) as agent:
            await agent.until(agent.is_ready)

            async def served() -> bool:
                status = await agent.debug("status")
                identities = status["certificates"]["identities"]
                workers = status["workers"]["list"]
                return bool(identities) and identities[0]["usable"] and [w["revision"] for w in workers] == [7, 7]

            await agent.until(served)
            text = await agent.metrics()
            assert "nodemesh_watch_revision 7.0" in text
            assert "nodemesh_workers 2.0" in text
            assert f'nodemesh_svid_renewals_total{{identity="{pki.WEB}"}} 1.0' in text
            heard = 'heard_total{messages="Start,EnrolmentUpdate'
            assert heard in text
            pages = [str(await agent.debug(name)) for name in ("config", "state", "certs", "status", "statistics")]
            assert not any("PRIVATE KEY" in page or "secret" in page for page in pages)

    play(story)


def test_without_control_the_state_on_disk_is_served(tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path / "state")
    directory.save_discovery(snapshot(workload(), revision=5))
    directory.close()

    async def story() -> None:
        config = settings(tmp_path, control="https://127.0.0.1:1")
        async with running(config, tmp_path) as agent:
            await agent.until(agent.is_ready)
            assert "warning, control: " in (await agent.ready()).text
            status = await agent.debug("status")
            assert (status["control"]["connected"], status["control"]["revision"]) == (False, 5)

    play(story)


def test_without_any_state_it_is_not_ready_and_says_why(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(settings(tmp_path, control="https://127.0.0.1:1"), tmp_path) as agent:

            async def workers_serve() -> bool:
                return (await agent.debug("status"))["workers"]["serving"] == 2

            await agent.until(workers_serve)
            answer = await agent.ready()
            assert answer.status_code == 503
            assert "blocked by state: no state from control yet: " in answer.text

    play(story)


def test_the_service_manager_hears_how_it_is(tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path / "state")
    directory.save_discovery(snapshot(workload(), revision=5))
    directory.close()

    async def story() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.setblocking(False)
            systemd.bind(str(tmp_path / "notify"))
            heard: list[str] = []

            async def hears(word: str) -> None:
                while word not in heard:
                    data = await asyncio.get_running_loop().sock_recv(systemd, 65536)
                    heard.extend(data.decode().splitlines())

            service = ServiceManager(str(tmp_path / "notify"), watchdog_seconds=0.3)
            async with running(settings(tmp_path), tmp_path, service):
                await hears("READY=1")
                assert "STATUS=serving" in heard[: heard.index("READY=1")]
                await hears("WATCHDOG=1")
            await hears("STOPPING=1")
            assert heard.count("READY=1") == 1

    play(story)


def test_the_agents_own_socket_answers_as_the_port_does(tmp_path: Path) -> None:
    async def story() -> None:
        config = settings(tmp_path)
        async with running(config, tmp_path) as agent:
            local = LocalAgent(config.agent_socket)
            for name in ("config", "state", "workloads", "capture", "enrolment", "certs"):
                assert await asyncio.to_thread(local.document, name) == await agent.debug(name)
            myself = AgentQuestion(process=Process(cgroups=(), inode=0, name="x"), seconds=20)
            answer = await asyncio.to_thread(local.ask, myself)
            assert (answer["outcome"], "capture is off" in answer["why"]) == ("refused", True)
            node = await asyncio.to_thread(local.ask, AgentQuestion(myself=False))
            assert node["outcome"] == "captured", "nothing is left to be captured"
        assert not config.agent_socket.exists()

    play(story)


def test_a_counter_survives_the_death_of_a_worker(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(settings(tmp_path, workers=1), tmp_path) as agent:

            async def counted() -> bool:
                return "heard_total{" in await agent.metrics()

            await agent.until(counted)
            pid = (await agent.debug("statistics"))["workers"]["list"][0]["pid"]
            os.kill(pid, signal.SIGKILL)

            async def replaced() -> bool:
                workers = (await agent.debug("statistics"))["workers"]
                return workers["serving"] == 1 and workers["list"][0]["pid"] != pid

            await agent.until(replaced)
            text = await agent.metrics()
            total = sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith("heard_total{"))
            assert total == 2
            assert "nodemesh_worker_restarts_total 1.0" in text

    play(story)


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))

    async def story() -> None:
        async with running(settings(tmp_path), tmp_path) as agent:

            async def workers_serve() -> bool:
                return (await agent.debug("status"))["workers"]["serving"] == 2

            await agent.until(workers_serve)

    play(story)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_second_agent_fails_before_it_changes_anything(tmp_path: Path) -> None:
    async def story() -> None:
        config = settings(tmp_path)
        async with running(config, tmp_path):
            with pytest.raises(AdminError, match=r"ports\.admin"):
                Agent(config, None)
            with pytest.raises(StateDirectoryError, match="another agent"):
                Agent(settings(tmp_path), None)

    play(story)


def test_the_directory_of_another_node_stops_it_and_leaves_nothing_open(tmp_path: Path) -> None:
    root = pki.make_root()
    directory = StateDirectory(tmp_path / "state")
    leaf = pki.make_svid(root, "spiffe://mesh.internal/node/node-b")
    directory.save_credential(
        NodeCredential(
            node="node-b", trust_domain="mesh.internal", chain=leaf.chain_pem, key=leaf.key_pem, roots=(root.pem,)
        )
    )
    directory.close()
    before = len(list(Path("/proc/self/fd").iterdir()))

    async def story() -> None:
        agent = Agent(settings(tmp_path), None, command(tmp_path))
        with pytest.raises(JoinError, match="belongs to node 'node-b'"):
            await agent.run()

    play(story)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
