"""Capture on this node as one part of the agent: who is enrolled and where, how plaintext is met, who leaves the mesh,
old connections, and the splice. Its members know nothing of one another; here they are joined.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from control.wire.discovery import Workload
from nodeagent.capture.controller import Capture
from nodeagent.capture.held import Held
from nodeagent.capture.reset import Outcome, ResetContext, Subject, reset
from nodeagent.capture.standing import Way
from nodeagent.channel import Namespaces
from nodeagent.config import Config
from nodeagent.enrolment.enroller import Enroller
from nodeagent.enrolment.standing import CaptureStanding
from nodeagent.enrolment.waiting import Verdict, WaitRequest
from nodeagent.lifecycle import Check
from nodeagent.manager import shown
from nodeagent.manager.egress import Egress
from nodeagent.manager.hub import Hub
from nodeagent.manager.namespaces import NodeNamespaces
from nodeagent.manager.old_connections import OldConnections
from nodeagent.manager.part import Task
from nodeagent.manager.plaintext import PlaintextPorts
from nodeagent.manager.splice import NodeSplice
from nodeagent.namespaces.handle import Namespace
from nodeagent.state.view import NodeState
from nodeagent.telemetry.accesslog import Log, open_log
from nodeagent.telemetry.samples import CounterSample, NumberSample


class HostCapture:
    """``CapturePart`` where there is capture. Owns the Capture, and closes it in the end."""

    def __init__(
        self, config: Config, capture: Capture, hub: Hub, state: NodeState, reserved_ports: frozenset[int]
    ) -> None:
        """``reserved_ports``: the agent's own, which are never met as a workload's. LoaderError or CgroupError, and
        then everything is closed, ``capture`` included.
        """
        self._config = config
        self._capture = capture
        self._hub = hub
        self._refused = 0
        ports = (config.ports.outbound, config.dns_port)
        with contextlib.ExitStack() as undo:
            undo.callback(capture.close)
            self._plaintext = PlaintextPorts(capture.open_inbound(), config.node, self._homes_of, reserved_ports)
            undo.callback(self._plaintext.close)
            self._splice = self._open_splice()
            undo.callback(self._splice.close)
            self._egress = Egress(capture.open_egress(), state, config.node, self._open_log)
            undo.callback(self._egress.close)
            self._namespaces = NodeNamespaces(capture, ports, self._on_namespaces)
            undo.callback(self._namespaces.close)
            self._undo = undo.pop_all()
        self._enroller = Enroller(capture, config.node, ports, hub, self._namespaces, self._on_look)
        self._old_connections = OldConnections(config.node, self._reset_connections, self._is_served)
        hub.on_stuck, self._splice.on_excluded = self._splice.exclude, hub.publish_exclusions
        self._splice.tell_excluded()

    def _open_splice(self) -> NodeSplice:
        if not self._config.splice:
            return NodeSplice.off("switched off in the configuration (splice: false)")
        capture, config = self._capture, self._config
        return NodeSplice.open(capture.pin_dir, capture.cgroup_root, config.kill_switch, config.clear_switch)

    def _open_log(self) -> Log:
        config = self._config
        return open_log(config.access_log, asyncio.get_running_loop().call_soon, config.cluster, config.limits)

    @property
    def pin_dir(self) -> str:
        """See CapturePart."""
        return str(self._capture.pin_dir)

    @property
    def splices(self) -> bool:
        """See CapturePart."""
        return self._splice.possible

    def watched_by(self, listener: socket.socket) -> None:
        """See CapturePart."""
        self._capture.watched_by(listener)

    def tasks(self) -> Mapping[str, Task]:
        """See CapturePart."""
        return {
            "splice": self._splice.run,
            "enrol": self._enroller.run,
            "plaintext": self._plaintext.run,
            "egress": self._egress.run,
            "old-connections": self._old_connections.run,
        }

    # --- what changes ---

    def applied(self, state: NodeState) -> None:
        """See CapturePart."""
        self._splice.applied(state, self._config.node)
        self._enroller.changed(state)
        self._plaintext.changed(state)
        self._old_connections.changed(state)

    def workers_changed(self) -> None:
        """See CapturePart."""
        self._splice.workers(link.pid for link in self._hub.links if link.pid)
        self._namespaces.served(self._hub.inside())
        self._enroller.settle_soon()
        if self._hub.serving and not self._enroller.listening:
            self._enroller.wake()

    def _on_namespaces(self, namespaces: Namespaces) -> None:
        self._hub.publish_namespaces(namespaces)
        self._plaintext.moved()

    def _on_look(self, cgroups: Mapping[int, str]) -> None:
        """At the end of each look at cgroups, which are these: who lives where, and what follows from it."""
        refused = self._capture.counters()["refused_no_listener"]
        everywhere, self._refused = refused != self._refused, refused  # somebody is in a namespace that is not known
        directories = self._capture.directories
        self._plaintext.enrolled(cgroups)
        self._egress.enrolled(cgroups)
        self._namespaces.look(cgroups, directories, everywhere=everywhere)
        self._old_connections.enrolled(cgroups, directories)

    def _homes_of(self, workload: Workload) -> Sequence[Namespace]:
        return self._namespaces.homes_of(workload.uid)

    def _is_served(self, uid: str) -> bool:
        places = self._namespaces.of_workload(uid, self._enroller.cgroups)
        return self._hub.serving > 0 and all(place["served"] for place in places)

    def _reset_connections(self, subject: Subject, ways: Collection[Way]) -> Outcome:
        around = ResetContext(
            enrolled=self._enroller.cgroups, destinations=self._capture.destinations,
            capture_port=self._config.ports.outbound,
            agent=lambda: [os.getpid(), *(link.pid for link in self._hub.links if link.pid)],
        )  # fmt: skip
        return reset(subject, around, ways)

    # --- what is asked ---

    def standing(self) -> CaptureStanding:
        """See CapturePart."""
        return self._enroller.standing()

    async def wait(self, held: Held | None, asked: WaitRequest) -> Verdict:
        """See CapturePart."""
        if held is None:
            return await self._enroller.wait_for_node(asked)
        return await self._enroller.wait(held, asked)

    def checks(self) -> Mapping[str, Check]:
        """See CapturePart."""
        return {
            "capture": lambda: "; ".join(self._enroller.problems),
            "plaintext": lambda: "; ".join(self._plaintext.problems),
            "namespaces": lambda: "; ".join(self._namespaces.problems[:3]),
        }

    def status(self) -> dict[str, Any]:
        """See CapturePart."""
        companions = self._splice.programs
        capture = shown.capture_document(self._capture.status(companions.values()), self._enroller.problems)
        return {
            "capture": {**capture, "companions": companions, "namespaces": self._namespaces.document()},
            "splice": self._splice.document(),
            "plaintext": self._plaintext.document(),
            "egress": self._egress.document(),
        }

    def enrolment(self) -> dict[str, Any]:
        """See CapturePart."""
        standing, enroller = self.standing(), self._enroller
        return {
            "looks": enroller.looks,
            "waiting": len(enroller.waiting),
            "captured": standing.captured,
            "why": standing.why,
        }

    def workloads(self, state: NodeState) -> list[dict[str, Any]]:
        """See CapturePart."""
        cgroups = self._enroller.cgroups
        problems = (*self._enroller.problems, *self._old_connections.problems.values())
        rows = shown.workloads_document(
            state, self._config.node, cgroups, lambda uid: self._namespaces.of_workload(uid, cgroups),
            problems, self._capture.directories,
        )  # fmt: skip
        return [{**row, "stages": self._enroller.enrolment.document(row["uid"])} for row in rows]

    def annotate(self, flows: dict[str, Any]) -> dict[str, Any]:
        """See CapturePart."""
        return self._splice.annotate(flows)

    def samples(self) -> list[NumberSample]:
        """See CapturePart."""
        counts = {
            "nodemesh_network_namespaces": float(len(self._namespaces)),
            "nodemesh_enrolled_cgroups": float(len(self._enroller.cgroups)),
            "nodemesh_waiting_questions": float(len(self._enroller.waiting)),
        }
        resets = [
            CounterSample(name="nodemesh_connections_reset_total", labels={"way": way}, value=count)
            for way, count in self._old_connections.counts.items()
        ]
        kernel = shown.counter_samples(self._capture.counters())
        return [*shown.plain_gauges(counts), *self._splice.samples(), *kernel, *resets]

    def refusals(self) -> list[CounterSample]:
        """See CapturePart."""
        return self._egress.samples()

    def close(self) -> None:
        """See CapturePart."""
        self._undo.close()
