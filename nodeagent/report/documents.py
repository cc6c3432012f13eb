"""The documents of ``/debug``, which the command line reads, put together from the parts of the manager."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from nodeagent.manager.parts import Components
from nodeagent.report import facts
from nodeagent.report.health import Health
from nodeagent.report.samples import Samples


class Documents:
    """One method a document. No keys in any of them."""

    def __init__(self, parts: Components, health: Health, samples: Samples) -> None:
        self._parts = parts
        self._health = health
        self._samples = samples

    def by_name(self) -> Mapping[str, Callable[[], Awaitable[Any]]]:
        """What is served, by the last part of its path."""
        parts = self._parts
        return {
            "status": self._status,
            "config": _later(lambda: facts.config_document(parts.config)),
            "state": _later(lambda: facts.state_document(parts.discovery.state, parts.discovery.rejected)),
            "statistics": _later(self._statistics),
            "flows": self._flows,
            "workloads": _later(lambda: parts.capture.workloads(parts.discovery.state)),
            "enrolment": _later(parts.capture.enrolment),
            "certs": _later(lambda: facts.certificates_document(parts.membership, parts.keeper)),
            "capture": _later(lambda: parts.capture.status()["capture"]),
        }

    async def _status(self) -> dict[str, Any]:
        parts = self._parts
        await parts.hub.collect()
        connected = parts.follower.connected
        return {
            "node": parts.config.node,
            "pid": os.getpid(),
            "phase": parts.lifecycle.phase.value,
            "ready": parts.lifecycle.ready,
            "blockers": parts.lifecycle.blockers,
            "warnings": parts.lifecycle.warnings,
            "control": {
                "url": parts.config.control,
                "connected": connected,
                "revision": parts.discovery.state.revision,
                "last_error": "" if connected else self._health.control(),
            },
            "workers": facts.workers_document(parts.hub, parts.workers, parts.supervisor.restarts),
            "certificates": facts.certificates_document(parts.membership, parts.keeper),
            **parts.capture.status(),
            "limits": facts.limits_document([*self._samples.summed(), *self._samples.own()]),
            "errors": facts.errors_document(self._samples.summed()),
        }

    async def _flows(self) -> dict[str, Any]:
        return self._parts.capture.annotate(await self._parts.hub.flows())

    def _statistics(self) -> dict[str, Any]:
        parts = self._parts
        return {
            "state": parts.discovery.state.statistics(),
            "workers": facts.workers_document(parts.hub, parts.workers, parts.supervisor.restarts),
            "samples": {sample.name: sample.value for sample in self._samples.own() if not sample.labels},
        }


def _later(function: Callable[[], Any]) -> Callable[[], Awaitable[Any]]:
    async def call() -> Any:
        return function()

    return call
