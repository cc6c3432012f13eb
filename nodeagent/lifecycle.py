"""Readiness as a set of named blockers, and the one-way road from starting to stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum


class Phase(Enum):
    """Where the agent is; it never goes back."""

    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPED = "stopped"


_NEXT = {
    Phase.STARTING: {Phase.RUNNING, Phase.DRAINING},
    Phase.RUNNING: {Phase.DRAINING},
    Phase.DRAINING: {Phase.STOPPED},
    Phase.STOPPED: set[Phase](),
}


Check = Callable[[], str]
"""Says what is wrong now, in words for operators; nothing if all is well."""


class Lifecycle:
    """Who blocks readiness and why. The agent is ready when it is running and no check has anything to say.

    Checks are asked whenever somebody wants to know, so that no answer is ever old.
    """

    def __init__(self) -> None:
        self._phase = Phase.STARTING
        self._blockers: dict[str, Check] = {}
        self._warnings: dict[str, Check] = {}

    @property
    def phase(self) -> Phase:
        """Where the agent is."""
        return self._phase

    def advance(self, phase: Phase) -> None:
        """Go on to ``phase``; going back is a defect."""
        if phase not in _NEXT[self._phase]:
            raise ValueError(f"the agent cannot go from {self._phase.value} to {phase.value}")
        self._phase = phase

    def blocks(self, name: str, check: Check) -> None:
        """While ``check`` has something to say, the agent is not ready."""
        self._blockers[name] = check

    def warns(self, name: str, check: Check) -> None:
        """What ``check`` says is shown to operators, but connections are served all the same."""
        self._warnings[name] = check

    @property
    def blockers(self) -> dict[str, str]:
        """Everything that keeps the agent from being ready: name and why."""
        found = _ask(self._blockers)
        if self._phase is not Phase.RUNNING:
            found["phase"] = f"the agent is {self._phase.value}"
        return found

    @property
    def warnings(self) -> dict[str, str]:
        """What is wrong without stopping the data path."""
        return _ask(self._warnings)

    @property
    def ready(self) -> bool:
        """Whether new connections are served."""
        return not self.blockers


def _ask(checks: Mapping[str, Check]) -> dict[str, str]:
    answers = {name: check() for name, check in checks.items()}
    return {name: answer for name, answer in answers.items() if answer}
