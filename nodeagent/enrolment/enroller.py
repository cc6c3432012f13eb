"""Keeps what the kernel captures in step with what the mesh says: on every change of state, and as cgroups come and
go.

Workers hear of a cgroup *before* the kernel captures its connections, so that none of them is ever of an unknown
workload. Connections are sent to the capture port only once a worker has it open. How far each cgroup is on that way,
``NodeEnrolment`` knows; whoever waits for one is in the ``WaitingRoom``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from control.wire.discovery import Workload
from nodeagent.capture.destinations import DestinationTable
from nodeagent.capture.held import Held
from nodeagent.capture.plan import DestinationPlan, Enrolment
from nodeagent.enrolment.stages import CgroupFacts
from nodeagent.enrolment.standing import CaptureStanding, EnrolledCgroup, NodeEnrolment
from nodeagent.enrolment.waiting import Verdict, WaitingRoom, WaitRequest
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

    def apply(self, enrolment: Enrolment, destinations: DestinationPlan | None = None) -> Enrolment:
        """Put it in force; None: destinations as they are."""

    def vanished(self, cgroups: Mapping[int, str]) -> dict[int, str]:
        """Those of them that do not exist any more."""

    @property
    def changes(self) -> Changes:
        """Tells when the next ``resolve`` may find something else."""

    def holds(self, number: int) -> bool:
        """Whether the kernel has the entry of this cgroup."""

    def set_listeners(self, port: int, dns_port: int = 0) -> None:
        """Captured connections of this network namespace go to this port."""


class Workers(Protocol):
    """What is used of ``manager.hub.Hub``."""

    def publish_enrolment(self, cgroups: Mapping[int, str]) -> int:
        """Whose each cgroup is; the edition of that."""

    def publish_departed(self, cgroups: Mapping[int, str]) -> None:
        """These enrolled cgroups were removed."""

    @property
    def serving(self) -> int:
        """How many accept connections."""

    @property
    def heard(self) -> int:
        """The edition that all of those know."""


class NamespaceCensus(Protocol):
    """What is used of ``manager.namespaces.NodeNamespaces``."""

    def inodes_of(self, cgroup: int) -> Collection[int]:
        """The network namespaces in which processes of the cgroup were seen."""

    def unserved(self, cgroup: int) -> str:
        """Why workers do not listen in all of them; empty if they do."""

    def hurry(self, cgroups: Iterable[int]) -> None:
        """Look at these at the next step."""


class Enroller:
    """Drives a Capture. ``ports``: where connections and DNS questions are taken to. ``after`` is called with the
    cgroups at the end of each step.
    """

    def __init__(
        self,
        capture: Capturing,
        node: str,
        ports: tuple[int, int],
        workers: Workers,
        places: NamespaceCensus,
        after: Callable[[Mapping[int, str]], None],
    ) -> None:
        self._capture = capture
        self._node = node
        self._ports = ports
        self._workers = workers
        self._places = places
        self._after = after
        self.listening = False
        """Whether the kernel knows where workers listen in this network namespace."""
        self._settling = False
        self._changed = asyncio.Event()
        self._state: NodeState | None = None
        self._stale = False
        self._destinations = DestinationTable()
        self.cgroups: dict[int, str] = {}
        self.enrolment = NodeEnrolment(places.inodes_of)
        self.waiting = WaitingRoom(lambda: self.looks, self.wake)
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
        """Look now: somebody waits, or something else changed (a worker listens)."""
        self._changed.set()

    async def wait(self, held: Held, asked: WaitRequest) -> Verdict:
        """Wait until the process is captured."""
        self._places.hurry(held.cgroups)
        return await self.waiting.wait(lambda: self.enrolment.standing(held), asked)

    async def wait_for_node(self, asked: WaitRequest) -> Verdict:
        """Wait until everything that workloads of this node select is captured."""
        return await self.waiting.wait(self.standing, asked)

    def standing(self) -> CaptureStanding:
        """Whether everything that workloads of this node select is captured."""
        if not self.looks:
            return CaptureStanding(False, "no state from control was put in force yet")
        return self.enrolment.standing_of_node()

    def settle(self) -> None:
        """Bring the stages up to date with what the workers said, and answer whoever waits for that."""
        self._settling = False
        self.enrolment.look(self._facts)
        self.waiting.look()

    def settle_soon(self) -> None:
        """``settle`` in the next turn of the loop, once for however many workers said something."""
        if not self._settling:
            self._settling = True
            asyncio.get_running_loop().call_soon(self.settle)

    def _facts(self, number: int, state: EnrolledCgroup) -> CgroupFacts:
        untold = "" if self._workers.heard >= state.edition else "not every worker process knows of it yet"
        if not self._workers.serving:
            untold = "no worker process accepts connections; see 'nodeagent status'"
        unserved = self._places.unserved(number) if self.listening else "no worker process listens yet"
        unentered = (
            ""
            if self._capture.holds(number)
            else next(
                (problem for problem in self.problems if "cannot be enrolled" in problem),
                "the kernel has no entry of it yet",
            )
        )
        return CgroupFacts(untold, unserved, unentered)

    def step(self) -> None:
        """Look and act once. Before any state is known nothing is touched: what is pinned stays in force."""
        if not self.listening and self._workers.serving:
            self._capture.set_listeners(*self._ports)
            self.listening = True
        state = self._state
        if state is None or not state.ready:
            return
        enrolment = self._capture.resolve(state.local_workloads(self._node))
        if not state.complete:
            enrolment = replace(enrolment, partial=True, problems=(*enrolment.problems, INCOMPLETE))
        found = enrolment.cgroups
        # the union first: of a cgroup that goes, connections may still be on their way to a worker
        edition = self._workers.publish_enrolment({**self.cgroups, **found})
        self.enrolment.found(found, enrolment.contested, edition)
        destinations = self._destinations.follow(state) if self._stale else None
        applied = self._capture.apply(enrolment, destinations)
        if destinations is not None:
            self._destinations.confirmed()
        self._stale = False
        self._report(found, applied.problems)
        before, self.cgroups, self.problems = self.cgroups, found, applied.problems
        self._workers.publish_enrolment(self.cgroups)
        gone = {cgroup: uid for cgroup, uid in before.items() if cgroup not in self.cgroups}
        if gone := self._capture.vanished(gone):
            logger.info("cgroups %s are gone", ", ".join(f"{cgroup} ({uid})" for cgroup, uid in gone.items()))
            self._workers.publish_departed(gone)
        self._after(self.cgroups)
        self.looks += 1
        self.settle()

    def _report(self, found: Mapping[int, str], problems: Iterable[str]) -> None:
        if found != self.cgroups:
            logger.info("capturing %d cgroups of %d workloads", len(found), len(set(found.values())))
        for problem in problems:
            if problem not in self.problems:
                logger.error("capture: %s", problem)

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
