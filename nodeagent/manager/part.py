"""What the core of the agent knows of capture: one part, there as a whole or absent as a whole."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from nodeagent.capture.held import Held
from nodeagent.enrolment.standing import CaptureStanding
from nodeagent.enrolment.waiting import Verdict, WaitOutcome, WaitRequest
from nodeagent.lifecycle import Check
from nodeagent.manager import shown
from nodeagent.manager.splice import NodeSplice
from nodeagent.state.view import NodeState
from nodeagent.telemetry.samples import CounterSample, NumberSample

OFF: Final = "capture is off in the configuration; only tunnels are served"

Task = Callable[[], Awaitable[None]]


class CapturePart(Protocol):
    """Everything of the agent that takes connections of this node's workloads out of their way."""

    @property
    def pin_dir(self) -> str:
        """Where workers open the BPF maps; empty: there are none."""

    @property
    def splices(self) -> bool:
        """Whether workers may hand flows to the kernel, or may before long."""

    def watched_by(self, listener: socket.socket) -> None:
        """This listener lives and dies with the manager."""

    def applied(self, state: NodeState) -> None:
        """This is the state of the mesh now."""

    def workers_changed(self) -> None:
        """A worker accepts connections, has ended, or said something of its namespaces or enrolment."""

    def tasks(self) -> Mapping[str, Task]:
        """What is to run beside everything else, until it is cancelled."""

    def checks(self) -> Mapping[str, Check]:
        """What operators are to be warned of."""

    def standing(self) -> CaptureStanding:
        """Whether everything that workloads of this node select is captured."""

    async def wait(self, held: Held | None, asked: WaitRequest) -> Verdict:
        """Wait until the process is captured; None: until everything of this node is."""

    def status(self) -> dict[str, Any]:
        """Parts of the document ``status``."""

    def enrolment(self) -> dict[str, Any]:
        """The document ``enrolment``: how far the agent is."""

    def workloads(self, state: NodeState) -> list[dict[str, Any]]:
        """The document ``workloads``."""

    def annotate(self, flows: dict[str, Any]) -> dict[str, Any]:
        """The document ``flows`` of the workers, with what only this part knows."""

    def samples(self) -> list[NumberSample]:
        """Metrics."""

    def refusals(self) -> list[CounterSample]:
        """What the kernel refused in the workers' stead: it counts as if one of them had."""

    def close(self) -> None:
        """Let go; what is captured stays captured."""


class NoCapture:
    """Nothing is captured: the node only serves tunnels."""

    pin_dir = ""
    splices = False

    def __init__(self, node: str) -> None:
        self._node = node
        self._splice = NodeSplice.off("nothing is captured on this node")

    def watched_by(self, listener: socket.socket) -> None:
        """The kernel need not know."""

    def applied(self, state: NodeState) -> None:
        """Changes nothing here."""

    def workers_changed(self) -> None:
        """Changes nothing here."""

    def tasks(self) -> Mapping[str, Task]:
        """None."""
        return {}

    def checks(self) -> Mapping[str, Check]:
        """None."""
        return {}

    def standing(self) -> CaptureStanding:
        """There is nothing to capture."""
        return CaptureStanding(captured=True)

    async def wait(self, held: Held | None, asked: WaitRequest) -> Verdict:
        """Refuse: it would wait for ever."""
        return Verdict(WaitOutcome.CAPTURED) if held is None else Verdict(WaitOutcome.REFUSED, OFF)

    def status(self) -> dict[str, Any]:
        """Says that it is off."""
        return {
            "capture": {"enabled": False, "why": OFF},
            "splice": self._splice.document(),
            "plaintext": {},
            "egress": {"confined": [], "refused": []},
        }

    def enrolment(self) -> dict[str, Any]:
        """Says that it is off."""
        return {"looks": 0, "waiting": 0, "captured": False, "why": OFF}

    def workloads(self, state: NodeState) -> list[dict[str, Any]]:
        """The workloads that are placed here, none of them captured."""
        return shown.workloads_document(state, self._node, {})

    def annotate(self, flows: dict[str, Any]) -> dict[str, Any]:
        """Says why nothing is spliced."""
        return self._splice.annotate(flows)

    def samples(self) -> list[NumberSample]:
        """That there is nothing."""
        none = {"nodemesh_network_namespaces": 0.0, "nodemesh_enrolled_cgroups": 0.0}
        return [*shown.plain_gauges(none), *self._splice.samples()]

    def refusals(self) -> list[CounterSample]:
        """None."""
        return []

    def close(self) -> None:
        """Holds nothing."""
