from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from nodeagent import channel
from nodeagent.client.mirror import Mirror
from nodeagent.manager import supervisor as module
from nodeagent.manager.hub import Hub
from nodeagent.manager.packing import Packing
from nodeagent.manager.supervisor import Supervisor
from nodeagent.telemetry.aggregate import Aggregate

START = channel.Start(
    node="node-a", index=0, outbound_port=1, tunnel_port=2, tunnel_addresses=("::",), pin_dir="", access_log="off"
)
Story = Callable[[Hub, Supervisor, Callable[[Callable[[], bool]], Awaitable[None]]], Awaitable[None]]


def play(directory: Path, count: int, story: Story) -> None:
    """Run a supervisor over fake workers; ``until`` waits for a change of the hub."""

    async def run() -> None:
        changed = asyncio.Event()
        aggregate = Aggregate(lambda: 0.0)
        hub = Hub(lambda: START, Mirror(), aggregate, changed.set, Packing(1))
        command = (sys.executable, "-m", "tests.support.fake_worker", "--directory", str(directory))
        supervisor = Supervisor(hub, count, command)
        task = asyncio.ensure_future(supervisor.run())

        async def until(condition: Callable[[], bool]) -> None:
            while not condition():
                changed.clear()
                await changed.wait()

        try:
            await story(hub, supervisor, until)
        finally:
            supervisor.stop()
            await task

    asyncio.run(asyncio.wait_for(run(), 60))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_workers_start_and_end_with_it(tmp_path: Path) -> None:
    pids: list[int] = []

    async def story(hub: Hub, supervisor: Supervisor, until: Callable[[Callable[[], bool]], Awaitable[None]]) -> None:
        await until(lambda: hub.serving == 2)
        pids.extend(link.pid for link in hub.links)
        assert [link.index for link in hub.links] == [0, 1]

    before = len(list(Path("/proc/self/fd").iterdir()))
    play(tmp_path, 2, story)
    assert len(set(pids)) == 2
    assert not any(alive(pid) for pid in pids)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_worker_that_dies_is_started_again(tmp_path: Path) -> None:
    async def story(hub: Hub, supervisor: Supervisor, until: Callable[[Callable[[], bool]], Awaitable[None]]) -> None:
        await until(lambda: hub.serving == 1)
        former = hub.links[0].pid
        os.kill(former, signal.SIGKILL)
        await until(lambda: hub.serving == 1 and hub.links[0].pid != former)
        assert supervisor.restarts == 1
        assert supervisor.last_end == "ended by signal 9"

    play(tmp_path, 1, story)


def test_it_never_gives_up_on_a_worker_that_cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_FIRST_SECONDS", 0.01)
    monkeypatch.setattr(module, "BACKOFF_MAX_SECONDS", 0.02)
    (tmp_path / "crash").touch()

    async def story(hub: Hub, supervisor: Supervisor, until: Callable[[Callable[[], bool]], Awaitable[None]]) -> None:
        await until(lambda: supervisor.restarts >= 2)
        (tmp_path / "crash").unlink()
        await until(lambda: hub.serving == 1)

    play(tmp_path, 1, story)


def test_a_worker_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXIT_SECONDS", 0.2)
    (tmp_path / "stubborn").touch()
    pids: list[int] = []

    async def story(hub: Hub, supervisor: Supervisor, until: Callable[[Callable[[], bool]], Awaitable[None]]) -> None:
        await until(lambda: hub.serving == 1)
        pids.append(hub.links[0].pid)

    play(tmp_path, 1, story)
    assert not alive(pids[0])


def test_while_retiring_a_worker_that_ends_is_not_replaced(tmp_path: Path) -> None:
    async def story(hub: Hub, supervisor: Supervisor, until: Callable[[Callable[[], bool]], Awaitable[None]]) -> None:
        await until(lambda: hub.serving == 1)
        supervisor.retire()
        assert await hub.drain(5) == 2
        await until(lambda: not hub.links)
        assert supervisor.restarts == 0

    play(tmp_path, 1, story)


def test_a_command_that_does_not_exist_is_survived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        hub = Hub(lambda: START, Mirror(), Aggregate(lambda: 0.0), lambda: None, Packing(1))
        supervisor = Supervisor(hub, 1, (str(tmp_path / "absent"),))
        task = asyncio.ensure_future(supervisor.run())
        while not supervisor.restarts:
            await asyncio.sleep(0)
        supervisor.stop()
        await task

    asyncio.run(asyncio.wait_for(run(), 20))
    assert "cannot be started" in caplog.text
