"""Between the start of a host and that of its agent: nothing goes past the mesh that was in it before.

Cgroups of workloads do not exist yet, so the kernel cannot be told who is enrolled. It is told what is in the mesh
instead: until an agent has said who is enrolled, connections to that are everybody's to be refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple, Protocol

from control.wire.discovery import Workload
from control.wire.watch import Batch
from nodeagent.capture.apply import SEALED_STILL
from nodeagent.capture.controller import Capture
from nodeagent.capture.plan import destinations_of
from nodeagent.manager.plaintext import PlaintextPorts
from nodeagent.namespaces.handle import Namespace, own
from nodeagent.state.view import NodeState


class SealError(Exception):
    """The node cannot be sealed; the text says why and what to do."""


class Sealed(NamedTuple):
    """What is held back."""

    destinations: int
    workloads: int
    problems: tuple[str, ...]


class Remembering(Protocol):
    """What is used of ``client.statefile.StateDirectory``."""

    def load_discovery(self) -> Batch | None:
        """The last snapshot that was saved."""


def seal(capture: Capture, directory: Remembering, node: str, reserved: frozenset[int]) -> Sealed:
    """Put in force what an agent of this node knew last. SealError if it knew nothing."""
    batch = directory.load_discovery()
    if batch is None:
        raise SealError(
            "nothing is remembered of the mesh (no agent ran here yet, or its state_dir is lost), so nothing can be"
            " refused; start the agent before the workloads"
        )
    state = NodeState()
    state.apply(batch)
    local = state.local_workloads(node)
    capture.seal()
    opened = capture.open_inbound()
    unguarded = capture.guard(own())
    destinations = destinations_of(state.services(), state.workloads())
    known = capture.resolve(local)
    # partial: cgroups that are not there yet do not mean that their workloads have left
    applied = capture.apply(replace(known, partial=True), destinations)
    ports = PlaintextPorts(opened, node, _here, reserved)
    try:
        ports.changed(state)
        ports.enrolled(known.cgroups)
        ports.step()
        return Sealed(
            len(destinations.entries),
            len(local),
            (*unguarded, *(p for p in applied.problems if p != SEALED_STILL), *ports.problems),
        )
    finally:
        ports.close()


def _here(_: Workload) -> Iterable[Namespace]:
    """Namespaces of workloads' own are not there yet."""
    return (own(),)
