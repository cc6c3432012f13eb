"""Processes that wait until they are captured: each asks once, and is answered once, when it is so or when its time
is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from nodeagent.enrolment.standing import CaptureStanding
from nodeagent.local.shares import Shares

MAX_WAITING: Final = 1024
"""Questions that wait at once: a node that starts every container it can hold has fewer."""
MAX_WAITING_OF_USERS: Final = 512
"""Of those, questions of all users but root."""
MAX_WAITING_OF_ONE: Final = 64
"""Questions of one asker: a user, or, of root's, the cgroup that is asked about."""
MAX_WAIT_SECONDS: Final = 600.0
"""The longest that one question waits; who wants to wait longer asks again."""

Judge = Callable[[], CaptureStanding]


class WaitOutcome(Enum):
    """How a question ended."""

    CAPTURED = "captured"
    UNSELECTED = "unselected"
    """Nobody selects it, and it may go on all the same."""
    LATE = "late"
    """Not captured within the time."""
    REFUSED = "refused"
    """Too many questions wait already, or there is nothing to wait for."""


class Verdict(NamedTuple):
    """The answer to a question, and the reason where it is not CAPTURED."""

    outcome: WaitOutcome
    why: str = ""


@dataclass(frozen=True, slots=True)
class WaitRequest:
    """Who wants to know, and for how long."""

    asker: str
    """Whose share it counts against, as it is called in a refusal."""
    privileged: bool
    """Whether root asks."""
    seconds: float
    optional: bool = False
    """Whether to answer UNSELECTED as soon as it is certain that nobody selects it."""


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    judge: Judge
    optional: bool
    looks: int
    """Of the agent, completed when the question came."""
    answer: asyncio.Future[Verdict]


class WaitingRoom:
    """``looks`` counts the looks at cgroups that are complete. ``hurry`` asks for the next one now."""

    def __init__(self, looks: Callable[[], int], hurry: Callable[[], None]) -> None:
        self._looks = looks
        self._hurry = hurry
        self._waiting: set[_Waiting] = set()
        self._shares = Shares(
            "questions that wait", total=MAX_WAITING, each=MAX_WAITING_OF_ONE, others=MAX_WAITING_OF_USERS
        )

    async def wait(self, judge: Judge, asked: WaitRequest) -> Verdict:
        """The answer, once there is one. The question is withdrawn if the caller is cancelled."""
        if refusal := self._shares.take(asked.asker, privileged=asked.privileged):
            return Verdict(WaitOutcome.REFUSED, refusal)
        answer: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(judge, asked.optional, self._looks(), answer)
        self._waiting.add(waiting)
        try:
            self._answer(waiting)
            self._hurry()
            await asyncio.wait((answer,), timeout=min(asked.seconds, MAX_WAIT_SECONDS))
            return answer.result() if answer.done() else Verdict(WaitOutcome.LATE, judge().why)
        finally:
            self._waiting.discard(waiting)
            self._shares.give_back(asked.asker, privileged=asked.privileged)

    def look(self) -> None:
        """Something changed: answer whoever can be answered now."""
        for waiting in self._waiting:
            self._answer(waiting)

    def _answer(self, waiting: _Waiting) -> None:
        if waiting.answer.done():
            return
        standing = waiting.judge()
        if standing.captured:
            waiting.answer.set_result(Verdict(WaitOutcome.CAPTURED))
        elif waiting.optional and standing.unselected and self._looks() > waiting.looks:
            # a look is made in one go: one that ended after the question came began after it, too
            waiting.answer.set_result(Verdict(WaitOutcome.UNSELECTED, standing.why))

    def __len__(self) -> int:
        return len(self._waiting)
