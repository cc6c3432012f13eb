"""Keeps what the kernel captures in step with what the mesh says: on every change of state, and as cgroups come and
go.

Workers hear of a cgroup *before* the kernel captures its connections, so that none of them is ever of an unknown
workload. Connections are sent to the capture port only once a worker has it open.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from control.wire.discovery import Workload
from nodeagent.capture.plan import Destinations, Enrolment, destinations_of
from nodeagent.state.view import NodeState

SCAN_SECONDS = 0.25
"""A workload that starts is captured after at most this, also where no notification came."""
REST_SECONDS = 0.01
"""Between two steps, however often something changes."""

INCOMPLETE = (
    "a workload or service that control told of cannot be read by this agent: everything that is captured stays"
    " captured; is the agent older than control?"
)

logger = logging.getLogger(__name__)


class Changes(Protocol):
    """What is used of ``capture.watch.Watch``."""

    def fileno(self) -> int:
        """Readable when something happened."""

    def drain(self) -> None:
        """Take note of it."""


class Capturing(Protocol):
    """What is used of ``capture.controller.Capture``."""

    def resolve(self, local: Iterable[Workload]) -> Enrolment:
        """Which cgroups are whose now."""

    def apply(self, enrolment: Enrolment, destinations: Destinations | None = None) -> Enrolment:
        """Put it in force; None: destinations as they are."""

    def vanished(self, cgroups: dict[int, str]) -> dict[int, str]:
        """Those of them that do not exist any more."""

    @property
    def changes(self) -> Changes:
        """Tells when the next ``resolve`` may find something else."""

    def set_listeners(self, port: int, dns_port: int = 0) -> None:
        """Captured connections of this network namespace go to this port."""


class Enroller:
    """Drives a Capture. ``ports``: where connections and DNS questions are taken to. ``publish`` tells the workers
    which cgroup is whose; ``serving`` whether one listens; ``departed`` hears of enrolled cgroups that were removed;
    ``after`` of the cgroups at the end of each step."""

    def __init__(
        self,
        capture: Capturing,
        node: str,
        ports: tuple[int, int],
        publish: Callable[[dict[int, str]], None],
        serving: Callable[[], bool],
        *,
        departed: Callable[[Mapping[int, str]], None],
        after: Callable[[Mapping[int, str]], None],
    ) -> None:
        self._capture = capture
        self._node = node
        self._ports = ports
        self._publish = publish
        self._serving = serving
        self._after = after
        self._departed = departed
        self._listening = False
        self._changed = asyncio.Event()
        self._state: NodeState | None = None
        self._stale = False
        self.cgroups: dict[int, str] = {}
        self.looks = 0
        """Steps that were taken to their end."""
        self.problems: tuple[str, ...] = ()
        """What the last step could not do; it is tried again every SCAN_SECONDS."""

    def changed(self, state: NodeState) -> None:
        """This is the state now: do not wait for the next scan."""
        self._state = state
        self._stale = True
        self._changed.set()

    def wake(self) -> None:
        """Something else changed (a worker listens): look now."""
        self._changed.set()

    def step(self) -> None:
        """Look and act once. Before any state is known nothing is touched: what is pinned stays in force."""
        if not self._listening and self._serving():
            self._capture.set_listeners(*self._ports)
            self._listening = True
        state = self._state
        if state is None or not state.ready:
            return
        enrolment = self._capture.resolve(state.local_workloads(self._node))
        if not state.complete:
            enrolment = replace(enrolment, partial=True, problems=(*enrolment.problems, INCOMPLETE))
        # the union first: of a cgroup that goes, connections may still be on their way to a worker
        self._publish({**self.cgroups, **enrolment.cgroups})
        destinations = destinations_of(state.services(), state.workloads()) if self._stale else None
        applied = self._capture.apply(enrolment, destinations)
        self._stale = False
        if enrolment.cgroups != self.cgroups:
            owners = set(enrolment.cgroups.values())
            logger.info("capturing %d cgroups of %d workloads", len(enrolment.cgroups), len(owners))
        for problem in applied.problems:
            if problem not in self.problems:
                logger.error("capture: %s", problem)
        before, self.cgroups, self.problems = self.cgroups, dict(enrolment.cgroups), applied.problems
        self._publish(self.cgroups)
        gone = {cgroup: uid for cgroup, uid in before.items() if cgroup not in self.cgroups}
        if gone := self._capture.vanished(gone):
            logger.info("cgroups %s are gone", ", ".join(f"{cgroup} ({uid})" for cgroup, uid in gone.items()))
            self._departed(gone)
        self._after(self.cgroups)
        self.looks += 1

    async def run(self) -> None:
        """Until cancelled. A failure leaves what is in force and is tried again."""
        loop, descriptor = asyncio.get_running_loop(), self._capture.changes.fileno()
        loop.add_reader(descriptor, self._noticed)
        try:
            await self._steps()
        finally:
            loop.remove_reader(descriptor)

    def _noticed(self) -> None:
        self._capture.changes.drain()
        self._changed.set()

    async def _steps(self) -> None:
        while True:
            self._changed.clear()
            try:
                self.step()
            except Exception as error:
                problem = f"not up to date: {error!r}; what is in force stays"
                if problem not in self.problems:
                    logger.exception("capture cannot be brought up to date; what is in force stays, trying again")
                self.problems = (problem,)
            await asyncio.sleep(REST_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SCAN_SECONDS):
                    await self._changed.wait()
