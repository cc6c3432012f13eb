"""Keeps N workers alive: spawns them, and spawns them again when they end, for as long as the agent runs.

A worker dies with its manager (it asks the kernel for that itself) and when its end of the socket closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
import sys
import time
from collections.abc import Callable, Sequence

from nodeagent.manager.hub import Hub
from nodeagent.manager.link import WorkerLink
from nodeagent.waits.backoff import Backoff

BACKOFF_FIRST_SECONDS = 0.2
BACKOFF_MAX_SECONDS = 10.0
STEADY_SECONDS = 30.0
"""A worker that lived this long had no trouble starting: the next one starts at once."""
EXIT_SECONDS = 3.0
"""How long a worker may take to end after its socket closed."""
WORKER_COMMAND = (sys.executable, "-m", "nodeagent.worker")

logger = logging.getLogger(__name__)


class Supervisor:
    """N worker processes on a hub. ``command`` gets ``--parent PID --channel-fd N`` appended."""

    def __init__(
        self,
        hub: Hub,
        count: int,
        command: Sequence[str] = WORKER_COMMAND,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._random = draw
        self._hub = hub
        self._count = count
        self._command = tuple(command)
        self._stopping = asyncio.Event()
        self._retiring = asyncio.Event()
        self.restarts = 0
        """How often a worker was started again."""
        self.last_end = ""
        """How the last one that ended did; empty if none has."""

    async def run(self) -> None:
        """Until ``stop``; then when every worker has ended."""
        async with asyncio.TaskGroup() as group:
            for index in range(self._count):
                group.create_task(self._keep(index), name=f"worker-{index}")

    def retire(self) -> None:
        """Start no more workers; those that live go on."""
        self._retiring.set()

    def stop(self) -> None:
        """Start no more workers, and end those that live."""
        self._retiring.set()
        self._stopping.set()

    async def _keep(self, index: int) -> None:
        backoff = Backoff(BACKOFF_FIRST_SECONDS, BACKOFF_MAX_SECONDS, self._random)
        while not self._retiring.is_set():
            started = time.monotonic()
            try:
                await self._live(index)
            except OSError as error:
                self.last_end = f"cannot be started: {error}"
                logger.error("worker %d cannot be started: %s", index, error)
            if self._retiring.is_set():
                return
            self.restarts += 1
            if time.monotonic() - started >= STEADY_SECONDS:
                backoff.reset()
            else:
                await self._pause(backoff.next())

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._retiring.wait()

    async def _live(self, index: int) -> None:
        """One life of a worker."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                *("--parent", str(os.getpid()), "--channel-fd", str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                # signals to a terminal's process group are for the manager, which drains its workers
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        link = self._hub.new_link(index)
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=ours)
            self._hub.attach(link)
            await self._until_end(process, link)
        finally:
            self._hub.detach(link)
            link.abort()
            status = await _end(process)
        if not self._retiring.is_set():
            self.last_end = f"ended {_how(status)}"
            logger.error("worker %d (pid %d) ended %s; starting another", index, process.pid, _how(status))

    async def _until_end(self, process: asyncio.subprocess.Process, link: WorkerLink) -> None:
        waits = [
            asyncio.ensure_future(process.wait()),
            asyncio.ensure_future(link.lost.wait()),
            asyncio.ensure_future(self._stopping.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


async def _end(process: asyncio.subprocess.Process) -> int:
    """Give the process EXIT_SECONDS to end by itself, then kill it. Its exit status."""
    try:
        async with asyncio.timeout(EXIT_SECONDS):
            return await process.wait()
    except (TimeoutError, asyncio.CancelledError):
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        return await process.wait()


def _how(status: int) -> str:
    return f"by signal {-status}" if status < 0 else f"with status {status}"
