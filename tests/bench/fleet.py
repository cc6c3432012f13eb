"""Brings the systems of a round up and down, all at the same time: most of a start is waiting."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from tests.bench.apps import serving
from tests.bench.figures import RunError, Topology
from tests.bench.sites import scratch
from tests.bench.systems.base import App, Deployment, System


@dataclass(slots=True)
class Fleet:
    """Systems that are up, in the order asked for, and why the others are not."""

    deployments: dict[str, Deployment] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


@contextlib.contextmanager
def fleet(topology: Topology, systems: Sequence[System], apps: Set[App]) -> Iterator[Fleet]:
    """Every system with its server programs while the block runs."""
    stacks = {system.name: contextlib.ExitStack() for system in systems}
    # The threads outlive the block: a program that is to die with its parent dies with the thread that started it.
    with ThreadPoolExecutor(max(1, len(systems))) as pool:
        starting = {system.name: pool.submit(_up, stacks[system.name], topology, system, apps) for system in systems}
        try:
            yield _collected(starting)
        finally:
            wait(starting.values())  # a signal may have come in the middle of them
            ending = [pool.submit(stack.close) for stack in stacks.values()]
            for future in ending:
                future.result()


def _up(stack: contextlib.ExitStack, topology: Topology, system: System, apps: Set[App]) -> Deployment:
    """The system with its server programs; on a failure nothing of it stays. Its files go last."""
    with contextlib.ExitStack() as own:
        directory = own.enter_context(scratch())
        deployment = own.enter_context(system.deploy(topology, directory))
        for app in sorted(apps, key=lambda app: app.value):
            own.enter_context(serving(app, deployment.server, directory))
        stack.push(own.pop_all())
        return deployment


def _collected(starting: dict[str, Future[Deployment]]) -> Fleet:
    found = Fleet()
    for name, future in starting.items():
        try:
            found.deployments[name] = future.result()
        except RunError as failure:
            found.failures.append(f"{name} does not start: {failure}")
    return found
