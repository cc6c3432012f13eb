"""What the three ways have in common: whom they report to, and the last steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from nodeagent.flows.flow import Flow, JoinableLeg
from nodeagent.reasons import Reason


class Attempt(Protocol):
    """A flow that wants its destination. One of the two is called, once, unless the flow ends before."""

    def reached(self) -> None:
        """The destination is connected and set in the flow: tell the source, if it waits. The flow is joined next."""

    def failed(self, reason: Reason, detail: str) -> None:
        """The destination cannot be reached: end the flow."""


class UnwatchedAttempt:
    """An attempt whose outcome nobody else learns: a failure ends the flow."""

    __slots__ = ("_flow",)

    def __init__(self, flow: Flow) -> None:
        self._flow = flow

    def reached(self) -> None:
        """Nobody waits for it."""

    def failed(self, reason: Reason, detail: str) -> None:
        """End the flow."""
        self._flow.cut(reason, detail)


def establish(
    flow: Flow,
    source: JoinableLeg,
    destination: JoinableLeg,
    attempt: Attempt,
    opened: Callable[[], None] | None = None,
) -> None:
    """Both ends are connected and permitted: from now on bytes go from one to the other. ``opened`` is called before
    the first byte does.
    """
    flow.destination = destination
    attempt.reached()
    flow.establish()
    if opened is not None:
        opened()
    if flow.done:
        return
    source.join(destination)
    if not flow.done:  # by what came before the legs were joined
        destination.join(source)
