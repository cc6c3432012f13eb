"""What a snapshot and one change of a large mesh cost an agent: CPU time, and the longest slice of a loop.

``python -m tests.bench.micro_snapshot [WORKLOADS]`` (20,000). No kernel, no network: the bytes that control would send
go through the manager's ``Discovery`` and, as its workers would receive them, through the ``Worker``'s channel. Times
are of this process; a slice is what the loop runs without a look at its connections.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from control.codec.lines import read_line
from control.wire.discovery import Selectors, Service, ServicePort, Workload
from nodeagent.capture.destinations import DestinationTable
from nodeagent.client.statefile import StateDirectory
from nodeagent.manager import parting
from nodeagent.manager.discovery import Discovery
from nodeagent.slices import in_slices
from nodeagent.worker.worker import Worker
from tests.support.objects import delta, line, snapshot

SERVICE_OF = 10
"""Workloads behind a service."""


def workload(i: int, **more: Any) -> Workload:
    """The i-th workload, of about the size that real ones have."""
    fields: dict[str, Any] = {
        "uid": f"shop/w{i}@{i}", "name": f"w{i}", "namespace": "shop", "node": f"n{i % 50}",
        "identity": f"spiffe://mesh.internal/ns/shop/sa/w{i}", "ports": (8080,),
        "addresses": (f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}", f"fd00::{i:x}"),
        "selectors": Selectors(systemd_unit=f"w{i}.service"), "sni": f"w{i}.shop.workload.mesh.internal",
        "labels": {"app": f"w{i}", "version": "v1"}, "canonical_service": f"w{i}", "canonical_revision": "v1",
        "app": f"w{i}", "version": "v1", "cluster": "c", "service_account": f"w{i}",
    }  # fmt: skip
    return Workload(**{**fields, **more})


def service(i: int) -> Service:
    """A service of SERVICE_OF workloads."""
    return Service(
        uid=f"shop/s{i}@{i}", name=f"s{i}", namespace="shop", hostname=f"s{i}.shop.mesh.internal",
        addresses=(f"240.{i >> 16}.{i >> 8 & 255}.{i & 255}",),
        ports=(ServicePort(name="http", port=80, target_port=8080),),
        endpoints=tuple(f"shop/w{j}@{j}" for j in range(i * SERVICE_OF, (i + 1) * SERVICE_OF)),
    )  # fmt: skip


class Pipe(asyncio.Transport):
    """Swallows what a worker answers."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Nowhere."""

    def is_closing(self) -> bool:
        """Never."""
        return False


class Agent:
    """A manager's discovery and one worker, without anything between them but bytes."""

    def __init__(self, directory: StateDirectory) -> None:
        self.sent: list[Iterator[bytes]] = []
        self.directory = directory
        self.discovery = Discovery(directory, lambda news, _: self.sent.append(parting.parts(news, news.changes)))
        self.destinations = DestinationTable()
        self.worker = Worker(asyncio.get_running_loop())
        self.worker.connection_made(Pipe())

    async def manager(self, text: bytes) -> None:
        """A line of the watch."""
        await self.discovery.take(await in_slices(read_line(text)))

    async def workers(self) -> None:
        """What the manager sent since."""
        for part in itertools.chain.from_iterable(self.sent):
            self.worker.data_received(part)
            await asyncio.sleep(0)
        self.sent.clear()
        while self.worker._slices.busy:
            await asyncio.sleep(0)

    async def capture(self) -> None:
        """What the kernel's map of destinations is to hold."""
        self.destinations.follow(self.discovery.state)
        self.destinations.confirmed()

    async def save(self) -> None:
        """Write what changed to disk."""
        await self.discovery.save()


async def measured(what: str, run: Callable[[], Awaitable[None]]) -> None:
    """Print the CPU time of ``run``, and the most of it between two turns of the loop."""
    longest, over, loop = 0.0, False, asyncio.get_running_loop()
    last = time.thread_time()

    def turn() -> None:
        nonlocal longest, last
        now = time.thread_time()
        longest, last = max(longest, now - last), now
        if not over:
            loop.call_soon(turn)

    turn()
    before = time.process_time()
    await run()
    spent = time.process_time() - before
    over = True
    await asyncio.sleep(0)
    print(f"{what:<58} {spent * 1000:9.2f} ms CPU, longest turn {longest * 1000:6.2f} ms", flush=True)


async def main(count: int) -> None:
    """Play the story."""
    objects = [*map(workload, range(count)), *map(service, range(count // SERVICE_OF))]
    first = line(snapshot(*objects, revision=1))
    print(f"{count} workloads, {count // SERVICE_OF} services, a snapshot of {len(first) / 1e6:.1f} MB")
    with tempfile.TemporaryDirectory() as path:
        agent = Agent(StateDirectory(Path(path)))
        await measured("first snapshot: manager", lambda: agent.manager(first))
        await measured("first snapshot: worker", agent.workers)
        await measured("first snapshot: written to disk", agent.save)
        await measured("first snapshot: what is captured (in one step)", agent.capture)
        again = line(snapshot(*objects, revision=1, instance="another"))
        await measured("the same snapshot of another instance: manager", lambda: agent.manager(again))
        await measured("the same snapshot of another instance: worker", agent.workers)
        await agent.save()
        changed = line(delta(workload(7, node="elsewhere"), revision=2, instance="another"))
        await measured("one changed object: manager", lambda: agent.manager(changed))
        await measured("one changed object: worker", agent.workers)
        await measured("one changed object: written to disk", agent.save)
        await measured("one changed object: what is captured", agent.capture)
        moved = line(snapshot(*(workload(i, cluster="d") for i in range(count)), revision=3, instance="another"))
        await measured("every object changed: manager", lambda: agent.manager(moved))
        await measured("every object changed: worker", agent.workers)
        await measured("digest of all that is held", lambda: digest(agent))


async def digest(agent: Agent) -> None:
    """What a reconnection costs."""
    await agent.discovery.content()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000))
