"""Tells the service manager how the agent is: ready once, alive for as long as the workers answer, and one line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final

from nodeagent.enrolment.standing import CaptureStanding
from nodeagent.lifecycle import Lifecycle
from nodeagent.manager.link import WorkerLink
from nodeagent.notify import ServiceManager

LOOK_SECONDS: Final = 0.25
SETTLE_SECONDS: Final = 10.0
"""How long, from the moment that connections are served, one cgroup that cannot be captured keeps READY back."""
SILENT_SECONDS: Final = 20.0
"""A worker speaks every second. One that has said nothing for so long does not answer."""
BEATS: Final = 3
"""Words of life in the time that the watchdog gives."""

Clock = Callable[[], float]


class Vitals:
    """READY is said once the agent is ready (it knows the mesh, and a worker accepts connections) and everything that
    workloads of this node select is captured, or, of what cannot be, SETTLE_SECONDS later.
    """

    def __init__(
        self,
        service: ServiceManager,
        lifecycle: Lifecycle,
        standing: Callable[[], CaptureStanding],
        links: Callable[[], Iterable[WorkerLink]],
        clock: Clock = time.monotonic,
    ) -> None:
        self._service = service
        self._lifecycle = lifecycle
        self._standing = standing
        self._links = links
        self._clock = clock
        self._said_ready = False
        self._serving_since: float | None = None
        self._next_beat = 0.0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> None:
        """Say what there is to say now."""
        now = self._clock()
        standing = self._standing()
        blockers = self._lifecycle.blockers
        self._service.status(_status(blockers, standing))
        if not blockers and self._serving_since is None:
            self._serving_since = now
        if not self._said_ready and not blockers and (standing.captured or self._settled(now)):
            self._said_ready = True
            self._service.ready()
        if self._service.watchdog_seconds and now >= self._next_beat and not self.silent(now):
            self._next_beat = now + self._service.watchdog_seconds / BEATS
            self._service.alive()

    def _settled(self, now: float) -> bool:
        return self._serving_since is not None and now - self._serving_since >= SETTLE_SECONDS

    def silent(self, now: float) -> list[int]:
        """The workers that do not answer, by index. One that has ended is not among them: another is started."""
        return [link.index for link in self._links() if now - link.spoke > SILENT_SECONDS]


def _status(blockers: dict[str, str], standing: CaptureStanding) -> str:
    if blockers:
        return "not ready: " + "; ".join(blockers[name] for name in sorted(blockers))
    return "serving" if standing.captured else f"serving; not captured yet: {standing.why}"
