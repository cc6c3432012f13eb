"""The manager against the real control, over loopback and without root: joining, watching, SVIDs, outages."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from control.wire.signing import TOKEN_PREFIX
from control.wire.watch import Batch, Change
from nodeagent.main import Agent
from tests.unit.nodeagent.test_main import Running, command, free_ports, settings

META = {"apiVersion": "nodemesh/v1"}
NODE = {**META, "kind": "Node", "metadata": {"name": "node-a"}, "spec": {"addresses": ["10.0.0.1", "fd00::1"]}}
WORKLOAD = {
    **META, "kind": "Workload", "metadata": {"name": "web-0", "namespace": "shop", "labels": {"app": "web"}},
    "spec": {"node": "node-a", "serviceAccount": "web", "ports": [8080], "selectors": {"cgroupPath": "/shop/web"}},
}  # fmt: skip
POLICY = {
    **META, "kind": "AuthorizationPolicy", "metadata": {"name": "deny", "namespace": "shop"},
    "spec": {"action": "DENY", "rules": [{"from": [{"source": {"namespaces": ["x"]}}]}]},
}  # fmt: skip
IDENTITY = "spiffe://mesh.internal/ns/shop/sa/web"


class Control:
    """A control process on a port that stays the same over restarts."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = free_ports(1)[0]
        self.url = f"https://127.0.0.1:{self._port}"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "from control.main import main; main()", "run", "--state-dir", str(self._directory),
            "--listen", f"127.0.0.1:{self._port}", "--svid-lifetime", "30s",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert b"ready" in await self._process.stdout.readline()

    async def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    async def post(self, path: str, body: Any) -> Any:
        operator = self._directory / "operator"
        context = ssl.create_default_context(cafile=str(operator / "ca.pem"))
        context.load_cert_chain(operator / "cert.pem", operator / "key.pem")
        async with httpx.AsyncClient(verify=context, trust_env=False) as client:
            answer = await client.post(self.url + path, json=body)
        assert answer.status_code < 300, answer.text
        return answer.json()

    async def apply(self, *objects: Any) -> None:
        await self.post("/v1/apply", {"objects": objects})

    async def token(self) -> str:
        return str((await self.post("/v1/tokens", {"node": "node-a"}))["token"])


@asynccontextmanager
async def mesh(tmp_path: Path) -> AsyncIterator[tuple[Control, Running]]:
    """A control with one node and one workload, and that node's agent with workers that carry nothing."""
    control = Control(tmp_path / "control")
    await control.start()
    try:
        await control.apply(NODE, WORKLOAD)
        config = settings(tmp_path, control=control.url, token=await control.token(), workers=1)
        agent = Agent(config, None, command(tmp_path))
        task = asyncio.ensure_future(agent.run())
        async with httpx.AsyncClient(trust_env=False) as client:
            here = Running(config, agent, client)
            try:
                await here.until(here.is_ready)
                yield control, here
            finally:
                agent.stop()
                await task
    finally:
        await control.kill()


def play(tmp_path: Path, story: Callable[[Control, Running], Awaitable[None]]) -> None:
    async def run() -> None:
        async with mesh(tmp_path) as (control, agent):
            await story(control, agent)

    asyncio.run(asyncio.wait_for(run(), 90))


async def policies_of_worker(agent: Running) -> int:
    return len((await agent.debug("state"))["policies"])


def holds(agent: Running, count: int) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return await policies_of_worker(agent) == count

    return check


def connected(agent: Running, expected: bool) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return bool((await agent.debug("status"))["control"]["connected"]) is expected

    return check


async def usable(agent: Running) -> bool:
    identities = (await agent.debug("certs"))["identities"]
    return [item["identity"] for item in identities if item["usable"]] == [IDENTITY]


def test_a_node_joins_and_gets_the_svids_of_its_workloads(tmp_path: Path) -> None:
    async def story(control: Control, agent: Running) -> None:
        await agent.until(lambda: usable(agent))
        stored = json.loads((tmp_path / "state" / "node.json").read_text())["value"]
        assert stored["node"] == "node-a"
        assert agent.config.token.startswith(TOKEN_PREFIX)

    play(tmp_path, story)


def test_changes_arrive_live(tmp_path: Path) -> None:
    async def story(control: Control, agent: Running) -> None:
        await control.apply(POLICY)
        await agent.until(holds(agent, 1))
        revision = (await agent.debug("status"))["control"]["revision"]

        async def worker_decides_by_it() -> bool:
            return bool((await agent.debug("status"))["workers"]["list"][0]["revision"] >= revision)

        await agent.until(worker_decides_by_it)
        await control.post(
            "/v1/delete", {"objects": [{"kind": "AuthorizationPolicy", "namespace": "shop", "name": "deny"}]}
        )
        await agent.until(holds(agent, 0))

    play(tmp_path, story)


def test_an_outage_of_control_is_survived_and_what_was_missed_arrives(tmp_path: Path) -> None:
    async def story(control: Control, agent: Running) -> None:
        await control.kill()
        await agent.until(connected(agent, False))
        assert await agent.is_ready()
        assert "warning, control: " in (await agent.ready()).text
        await control.start()
        await control.apply(POLICY)
        await agent.until(holds(agent, 1))
        await agent.until(connected(agent, True))

    play(tmp_path, story)


def test_a_restart_of_control_that_changes_nothing_sends_no_object(tmp_path: Path) -> None:
    async def story(control: Control, agent: Running) -> None:
        await control.apply(POLICY)
        await agent.until(holds(agent, 1))
        follower = agent.agent._follower
        taken: list[Batch] = []
        take = follower._sink

        async def watched(batch: Batch) -> None:
            taken.append(batch)
            await take(batch)

        follower._sink = watched
        for _ in range(2):
            await control.kill()
            await agent.until(connected(agent, False))
            await control.start()
            await agent.until(connected(agent, True))
        assert len(taken) >= 2 and all(not batch.snapshot and not batch.changes for batch in taken), taken
        await control.apply({**POLICY, "metadata": {"name": "second", "namespace": "shop"}})
        await agent.until(holds(agent, 2))
        assert len(taken[-1].changes) == 2, "the policy, and the workload that it selects"

    play(tmp_path, story)


def test_a_policy_that_was_lost_is_asked_for_again(tmp_path: Path) -> None:
    async def story(control: Control, agent: Running) -> None:
        await control.apply(POLICY)
        await agent.until(holds(agent, 1))
        state = (await agent.debug("state"))["policies"][0]
        held = agent.agent._discovery
        lost = Change(kind="policy", uid=state["uid"])
        await held.take(Batch(instance=held.state.instance, revision=held.state.revision, changes=(lost,)))
        assert await policies_of_worker(agent) == 0
        assert f"not received: policy {state['uid']}" in (await agent.ready()).text
        other = {"node": "node-a", "ports": [8081], "selectors": {"cgroupPath": "/shop/other"}}
        await control.apply({**WORKLOAD, "metadata": {"name": "other", "namespace": "shop"}, "spec": other})
        await agent.until(holds(agent, 1))
        assert "not received" not in (await agent.ready()).text

    play(tmp_path, story)


def test_an_agent_that_restarts_needs_no_token_and_no_control(tmp_path: Path) -> None:
    async def story(control: Control, agent: Running) -> None:
        await agent.until(lambda: usable(agent))
        agent.agent.stop()
        await control.kill()

    play(tmp_path, story)

    async def again() -> None:
        config = settings(tmp_path, control="https://127.0.0.1:1", workers=1)
        second = Agent(config, None, command(tmp_path))
        task = asyncio.ensure_future(second.run())
        async with httpx.AsyncClient(trust_env=False) as client:
            here = Running(config, second, client)
            await here.until(here.is_ready)
            assert await usable(here)
            assert (await here.debug("certs"))["node"]["joined"]
            second.stop()
            await task

    asyncio.run(asyncio.wait_for(again(), 30))


def test_a_token_is_good_once(tmp_path: Path) -> None:
    async def story(control: Control, agent: Running) -> None:
        thief = settings(
            tmp_path,
            control=control.url,
            token=agent.config.token,
            state_dir=tmp_path / "thief",
            run_dir=tmp_path / "thief-run",
            workers=1,
        )
        second = Agent(thief, None, command(tmp_path))
        task = asyncio.ensure_future(second.run())
        async with httpx.AsyncClient(trust_env=False) as client:
            here = Running(thief, second, client)

            async def refused() -> bool:
                return "meshctl token create --node node-a" in (await here.debug("certs"))["node"]["last_error"]

            await here.until(refused)
            assert not (await here.debug("certs"))["node"]["joined"]
            second.stop()
            await task

    play(tmp_path, story)


def test_a_workload_that_moves_away_takes_its_identity_along(tmp_path: Path) -> None:
    async def story(control: Control, agent: Running) -> None:
        await agent.until(lambda: usable(agent))
        await control.post("/v1/delete", {"objects": [{"kind": "Workload", "namespace": "shop", "name": "web-0"}]})

        async def gone() -> bool:
            return not (await agent.debug("certs"))["identities"]

        await agent.until(gone)
        assert list((tmp_path / "state" / "svids").iterdir()) == []

    play(tmp_path, story)
