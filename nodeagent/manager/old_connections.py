"""Ends the old connections of workloads that ask for it (label ``nodemesh.io/old-connections``): those that went past
the mesh when the workload joined, and those that the mesh carries when it leaves.

A wish is heeded whenever a workload's cgroups change, so what a program connected to in the moment before it was
captured is ended too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from control.wire.discovery import MtlsMode, Workload
from control.wire.governed import CAPTURE_LABEL, OLD_CONNECTIONS_LABEL, old_connections
from nodeagent.capture.reset import Outcome, Subject, UnseenAgentError
from nodeagent.capture.standing import PAST, Way
from nodeagent.policy.plaintext import effective_mode
from nodeagent.state.view import NodeState

LOOK_SECONDS: Final = 1.0
LOOKS: Final = 5
"""Looks at a workload when it is due, LOOK_SECONDS apart: a handshake may have been under way at the first."""
MAX_TOLD: Final = 20
"""Lines that one look writes into the log; the rest is a sum."""

logger = logging.getLogger(__name__)

Reset = Callable[[Subject, Collection[Way]], Outcome]
_Key = tuple[frozenset[int], bool, int]


@dataclass(slots=True)
class _Due:
    """What is to be done for a workload: since when its cgroups are these, when, and how often it was done."""

    key: _Key
    at: float
    looks: int = 0


class OldConnections:
    """``reset`` does it, in a thread; ``served`` says whether new connections of a workload would be taken now."""

    def __init__(
        self, node: str, reset: Reset, served: Callable[[str], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._node = node
        self._reset = reset
        self._served = served
        self._clock = clock
        self._state: NodeState | None = None
        self._cgroups: dict[int, str] = {}
        self._directories: dict[int, Path] = {}
        self._due: dict[str, _Due] = {}
        self.counts: Counter[str] = Counter()
        """Connections that were reset, by ``Way.label``."""
        self.problems: dict[str, str] = {}
        """uid of a workload -> why its old connections stand."""

    def changed(self, state: NodeState) -> None:
        """This is the state now."""
        self._state = state

    def enrolled(self, cgroups: Mapping[int, str], directories: Mapping[int, Path]) -> None:
        """These are the workloads' cgroups now (id -> uid), and where they are."""
        self._cgroups, self._directories = dict(cgroups), dict(directories)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.step()
            await asyncio.sleep(LOOK_SECONDS)

    async def step(self) -> None:
        """Look once at each workload whose time has come."""
        state = self._state
        if state is None or not state.ready:
            return
        wishes = {w.uid: w for w in state.local_workloads(self._node) if wish_of(w) is not None}
        for gone in self._due.keys() - wishes.keys():
            del self._due[gone]
            self.problems.pop(gone, None)
        for workload in wishes.values():
            if self._is_due(workload) and self._served(workload.uid):
                await self._look(workload)

    def _is_due(self, workload: Workload) -> bool:
        cgroups = frozenset(cgroup for cgroup, uid in self._cgroups.items() if uid == workload.uid)
        key = (cgroups, has_left(workload), wish_of(workload) or 0)
        due = self._due.get(workload.uid)
        if due is None or due.key != key:
            due = self._due[workload.uid] = _Due(key, self._clock() + key[2])
        return bool(cgroups) and due.looks < LOOKS and self._clock() >= due.at

    async def _look(self, workload: Workload) -> None:
        self._due[workload.uid].looks += 1
        ways = {Way.CARRIED_OUT} if has_left(workload) else PAST
        directories = {number: path for number, path in self._directories.items() if self._is_of(number, workload)}
        subject = subject_of(workload, directories)
        try:
            outcome = await asyncio.to_thread(self._reset, subject, ways)
        except (OSError, UnseenAgentError) as error:
            outcome = Outcome((), str(error))
        self._tell(workload.uid, outcome)

    def _is_of(self, number: int, workload: Workload) -> bool:
        return self._cgroups.get(number) == workload.uid

    def _tell(self, uid: str, outcome: Outcome) -> None:
        ended = [told for told in outcome.connections if told.ended]
        for told in ended[:MAX_TOLD]:
            end, why = told.connection, told.connection.way.value
            logger.info("reset %s -> %s of %s, process %d: %s", end.local, end.remote, uid, told.pid, why)
        if len(ended) > MAX_TOLD:
            logger.info("reset %d more connections of %s", len(ended) - MAX_TOLD, uid)
        self.counts.update(told.connection.way.label for told in ended)
        if outcome.trouble and outcome.trouble != self.problems.get(uid):
            logger.error("old connections of %s stand: %s", uid, outcome.trouble)
        self.problems.pop(uid, None)
        if outcome.trouble:
            standing = len(outcome.connections) - len(ended)
            self.problems[uid] = f"workload {uid}: {standing} old connections stand: {outcome.trouble}"


def wish_of(workload: Workload) -> int | None:
    """Seconds after which its old connections are to go; None: never."""
    with contextlib.suppress(ValueError):  # control lets in what can be read; an older agent may not know the word
        return old_connections(workload.labels.get(OLD_CONNECTIONS_LABEL, "keep"))
    return None


def has_left(workload: Workload) -> bool:
    """Whether its new connections go past the mesh."""
    return workload.labels.get(CAPTURE_LABEL) == "off"


def subject_of(workload: Workload, directories: Mapping[int, Path]) -> Subject:
    """For ``capture.reset``."""
    met = [port for port in workload.ports if effective_mode(workload, port) is not MtlsMode.DISABLE]
    return Subject(uid=workload.uid, directories=directories, ports=met, probe_ports=workload.probe_ports)
