"""What is exported as metrics: the sum of what the workers counted, and the manager's own samples."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from nodeagent.manager import shown
from nodeagent.manager.parts import Components
from nodeagent.report import facts
from nodeagent.telemetry.exposition import render
from nodeagent.telemetry.samples import CounterSample, NumberSample, Sample

PRUNE_SECONDS = 60.0
KERNEL = 0
"""No process has this number: in the sums the kernel is one more worker."""


class Samples:
    """Reads the parts whenever it is asked."""

    def __init__(self, parts: Components) -> None:
        self._parts = parts
        self._next_prune = 0.0

    def own(self) -> list[NumberSample]:
        """What the manager itself knows."""
        parts = self._parts
        gauges = shown.plain_gauges(
            {
                "nodemesh_watch_revision": parts.discovery.state.revision,
                "nodemesh_control_connected": float(parts.follower.connected),
                "nodemesh_workers": parts.hub.serving,
                "nodemesh_ready": float(parts.lifecycle.ready),
            }
        )
        restarts = CounterSample(name="nodemesh_worker_restarts_total", labels={}, value=parts.supervisor.restarts)
        samples: list[NumberSample] = [*gauges, restarts]
        samples += [*facts.svid_samples(parts.keeper), *facts.membership_samples(parts.membership)]
        samples += facts.excess_samples(parts.excess)
        return [*samples, *parts.capture.samples()]

    def summed(self) -> tuple[Sample, ...]:
        """What the workers counted, and what the kernel refused in their stead."""
        self._parts.aggregate.update(KERNEL, self._parts.capture.refusals())
        return self._parts.aggregate.samples()

    async def render(self, accept: str) -> tuple[bytes, str]:
        """The text for a scraper, in the form that it accepts, and its content type."""
        await self._parts.hub.collect()
        self._prune()
        samples = (*self.summed(), *self.own())
        return await asyncio.to_thread(render, samples, accept)

    def _prune(self) -> None:
        """Now and then, let the series of workloads go that left the mesh."""
        now, state = time.monotonic(), self._parts.discovery.state
        if now >= self._next_prune and state.ready:
            self._next_prune = now + PRUNE_SECONDS
            names = {(workload.namespace, workload.name) for workload in state.workloads()}
            self._parts.aggregate.prune(lambda labels: _names_known(labels, names))


def _names_known(labels: Mapping[str, str], names: set[tuple[str, str]]) -> bool:
    """Whether every workload that a series names is still in the mesh; series of nobody in particular stay."""
    for side in ("source", "destination"):
        workload = labels.get(f"{side}_workload", "unknown")
        if workload != "unknown" and (labels.get(f"{side}_workload_namespace", ""), workload) not in names:
            return False
    return True
