"""How far an enrolled cgroup is on its way into the mesh: a transition table over what is known of it. Pure.

The kernel's entry of a cgroup is written as soon as the workers have been told of it, before anybody listens: until
its stage is ``CAPTURED`` its connections to the mesh are refused, never let past.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import Final, NamedTuple


class Stage(IntEnum):
    """Each includes those before it."""

    FOUND = 0
    """A workload selects the cgroup."""
    TOLD = 1
    """Every worker that accepts connections knows whose it is."""
    SERVED = 2
    """Workers listen in every network namespace that its processes are in."""
    CAPTURED = 3
    """The kernel takes its connections to them."""

    @property
    def label(self) -> str:
        """The name in documents."""
        return self.name.lower()


class Signal(Enum):
    """What happened to a cgroup."""

    TELL = "every worker has said that it knows of it"
    LISTEN = "workers listen wherever its processes are"
    ENTER = "the kernel has its entry"
    MISS = "a worker that accepts connections does not know of it, or there is none"
    SHUT = "a process of it is in a network namespace where no worker listens"
    RELEASE = "the kernel has no entry of it any more"


TABLE: Final[Mapping[tuple[Stage, Signal], Stage]] = MappingProxyType(
    {
        (Stage.FOUND, Signal.TELL): Stage.TOLD,
        (Stage.TOLD, Signal.LISTEN): Stage.SERVED,
        (Stage.SERVED, Signal.ENTER): Stage.CAPTURED,
        (Stage.CAPTURED, Signal.RELEASE): Stage.SERVED,
        (Stage.SERVED, Signal.SHUT): Stage.TOLD,
        (Stage.CAPTURED, Signal.SHUT): Stage.TOLD,
        (Stage.TOLD, Signal.MISS): Stage.FOUND,
        (Stage.SERVED, Signal.MISS): Stage.FOUND,
        (Stage.CAPTURED, Signal.MISS): Stage.FOUND,
    }
)
"""Whatever is not in it is a defect."""


class UndefinedStepError(ValueError):
    """A signal that means nothing at this stage: a defect of the agent."""


def follow(stage: Stage, signal: Signal) -> Stage:
    """The stage after the signal. UndefinedStepError."""
    try:
        return TABLE[stage, signal]
    except KeyError:
        raise UndefinedStepError(f"{signal.name} means nothing to a cgroup that is {stage.label}") from None


class CgroupFacts(NamedTuple):
    """What is known of a cgroup now. Each is the reason why it is not so; empty if it is."""

    untold: str
    unserved: str
    unentered: str

    @property
    def why(self) -> str:
        """The first reason why it is not captured; empty if it is."""
        return self.untold or self.unserved or self.unentered


def signal_for(stage: Stage, facts: CgroupFacts) -> Signal | None:
    """What these facts say to a cgroup at that stage; None: nothing new. A loss comes before a gain."""
    if facts.untold:
        return Signal.MISS if stage > Stage.FOUND else None
    if facts.unserved and stage > Stage.TOLD:
        return Signal.SHUT
    if facts.unentered and stage > Stage.SERVED:
        return Signal.RELEASE
    gains = {
        Stage.FOUND: Signal.TELL,
        Stage.TOLD: None if facts.unserved else Signal.LISTEN,
        Stage.SERVED: None if facts.unentered else Signal.ENTER,
    }
    return gains.get(stage)


def advance(stage: Stage, facts: CgroupFacts) -> Stage:
    """Follow the table until the facts have nothing more to say."""
    while (signal := signal_for(stage, facts)) is not None:
        stage = follow(stage, signal)
    return stage
