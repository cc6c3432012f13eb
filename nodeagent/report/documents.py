"""The documents of ``/debug``, which the command line reads, put together from the parts of the manager."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from nodeagent.manager.parts import Parts
from nodeagent.report import facts
from nodeagent.report.health import Health
from nodeagent.report.samples import Samples


class Documents:
    """One method a document. No keys in any of them."""

    def __init__(self, parts: Parts, health: Health, samples: Samples) -> None:
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
            "workloads": _later(self._workloads),
            "enrolment": _later(lambda: {"looks": parts.enroller.looks if parts.enroller is not None else 0}),
            "certs": _later(lambda: facts.certificates_document(parts.membership, parts.keeper)),
            "capture": _later(self._capture),
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
            "capture": self._capture(),
            "splice": parts.splice.document(),
            "plaintext": parts.plaintext.document() if parts.plaintext is not None else {},
            "egress": parts.egress.document() if parts.egress is not None else {"confined": [], "refused": []},
            "errors": facts.errors_document(self._samples.summed()),
        }

    async def _flows(self) -> dict[str, Any]:
        return self._parts.splice.annotate(await self._parts.hub.flows())

    def _statistics(self) -> dict[str, Any]:
        parts = self._parts
        return {
            "state": parts.discovery.state.statistics(),
            "workers": facts.workers_document(parts.hub, parts.workers, parts.supervisor.restarts),
            "samples": {sample.name: sample.value for sample in self._samples.own() if not sample.labels},
        }

    def _workloads(self) -> list[dict[str, Any]]:
        parts = self._parts
        cgroups = parts.enroller.cgroups if parts.enroller is not None else {}
        found = parts.namespaces
        problems = parts.enroller.problems if parts.enroller is not None else ()
        if parts.old_connections is not None:
            problems += tuple(parts.old_connections.problems.values())
        return facts.workloads_document(
            parts.discovery.state, parts.config.node, cgroups,
            (lambda uid: found.of_workload(uid, cgroups)) if found is not None else lambda _: [],
            problems, parts.capture.directories if parts.capture is not None else {},
        )  # fmt: skip

    def _capture(self) -> dict[str, Any]:
        parts = self._parts
        if parts.capture is None or parts.enroller is None:
            return {"enabled": False, "why": "capture is off in the configuration; only tunnels are served"}
        companions = parts.splice.programs
        document = facts.capture_document(parts.capture.status(companions.values()), parts.enroller.problems)
        document["companions"] = companions
        if parts.namespaces is not None:
            document["namespaces"] = parts.namespaces.document()
        return document


def _later(function: Callable[[], Any]) -> Callable[[], Awaitable[Any]]:
    async def call() -> Any:
        return function()

    return call
