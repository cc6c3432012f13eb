"""Every cgroup that is, or is to be, captured on this node, with its stage and the reason for that stage. Pure.

The one place that answers whether a process is captured: for ``nodeagent wait``, OCI hooks, the doctor, and for the
word of the agent to systemd that it is ready.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from nodeagent.capture.held import Held
from nodeagent.enrolment.stages import CgroupFacts, Stage, advance

MAX_REASONS: Final = 3
"""Cgroups that are named when the whole node is asked about."""


@dataclass(slots=True)
class EnrolledCgroup:
    """One cgroup, or one user of a cgroup (``User.number``)."""

    owner: str
    """uid of its workload."""
    edition: int
    """The first enrolment sent to the workers in which it is its owner's."""
    stage: Stage = Stage.FOUND
    why: str = "the workers have not been told of it yet"
    """Why it is not captured; empty if it is."""


class CaptureStanding(NamedTuple):
    """Whether somebody is captured now."""

    captured: bool
    why: str = ""
    """Why not."""
    unselected: bool = False
    """No workload of this node selects it."""


Whereabouts = Callable[[int], Collection[int]]
"""Inodes of the network namespaces in which processes of a cgroup were seen."""


class NodeEnrolment:
    """The cgroups of the workloads of this node. The caller reports facts; nothing is looked up here."""

    def __init__(self, whereabouts: Whereabouts) -> None:
        self._whereabouts = whereabouts
        self._states: dict[int, EnrolledCgroup] = {}
        self._contested: dict[int, str] = {}

    def found(self, cgroups: Mapping[int, str], contested: Mapping[int, tuple[str, ...]], edition: int) -> None:
        """Replace what was found before by these cgroups (id -> uid of the one workload that selects it) and these,
        which several select. ``edition``: of the enrolment that has just told the workers of them.
        """
        for number in self._states.keys() - cgroups.keys():
            del self._states[number]
        for number, owner in cgroups.items():
            known = self._states.get(number)
            if known is None or known.owner != owner:
                self._states[number] = EnrolledCgroup(owner, edition)
        self._contested = {
            number: f"cgroup {number} is selected by {' and '.join(uids)}: its connections to the mesh are refused;"
            " make their selectors disjoint"
            for number, uids in contested.items()
        }

    def look(self, facts: Callable[[int, EnrolledCgroup], CgroupFacts]) -> None:
        """Move every cgroup to the stage that the facts allow."""
        for number, state in self._states.items():
            known = facts(number, state)
            state.stage, state.why = advance(state.stage, known), known.why

    def standing(self, held: Held) -> CaptureStanding:
        """Whether new connections of it are captured. The nearest enrolled cgroup decides, as in the kernel."""
        for number in held.cgroups:
            if number in self._contested:
                return CaptureStanding(False, self._contested[number])
            state = self._states.get(number)
            if state is None:
                continue
            if state.stage is not Stage.CAPTURED:
                return CaptureStanding(False, f"workload {state.owner}: {state.why}")
            if held.inode not in self._whereabouts(number):
                why = f"the agent has not seen {held.name} in network namespace {held.inode} yet"
                return CaptureStanding(False, why)
            return CaptureStanding(True)
        return CaptureStanding(False, f"no workload of this node selects the cgroup of {held.name}", unselected=True)

    def standing_of_node(self) -> CaptureStanding:
        """Whether everything that was found is captured."""
        waiting = [(number, state) for number, state in sorted(self._states.items()) if state.why]
        reasons = [f"cgroup {number} of {state.owner}: {state.why}" for number, state in waiting[:MAX_REASONS]]
        if len(waiting) > MAX_REASONS:
            reasons.append(f"and {len(waiting) - MAX_REASONS} more")
        return CaptureStanding(not waiting, "; ".join(reasons))

    def document(self, uid: str) -> dict[str, Any]:
        """For operators: the cgroups of a workload, with the stage of each."""
        return {
            str(number): {"stage": state.stage.label, "why": state.why}
            for number, state in self._states.items()
            if state.owner == uid
        }

    def __len__(self) -> int:
        return len(self._states)
