"""Urgent data of a flow: when it may be passed on, and how long it may wait for that.

The byte is passed on at its place in the stream. It waits while the application has not read what the kernel carried
past TCP, and while the settings of the other node's agent have not come (``http2.control``). If the byte cannot be
passed on in time, or not at all, the flow is reset with URGENT_DATA: without the byte the stream would be another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from nodeagent.reasons import Reason

if TYPE_CHECKING:
    from nodeagent.flows.flow import Flow, Leg

LOOK_SECONDS: Final = 0.002
"""Between two looks at whether an urgent byte can be passed on."""
WAIT_SECONDS: Final = 10.0
"""That it may take."""
_NEVER: Final = "the agent of the other node does not carry urgent data (MSG_OOB)"
_LATE: Final = f"an urgent byte (MSG_OOB) waited {WAIT_SECONDS:.0f} s for what was sent before it to be read"


class PastTcp(NamedTuple):
    """Octets that the kernel carried past TCP and that were not read yet, at one socket of an application."""

    by_application: int
    by_agent: int


Unread = Callable[[], PastTcp]
_NOTHING: Final = PastTcp(0, 0)


def nothing_unread() -> PastTcp:
    """Where TCP carries everything."""
    return _NOTHING


class UrgentWait:
    """The wait of one direction of a flow for its peer to take an urgent byte."""

    __slots__ = ("_again", "_flow", "_peer", "_timer", "_until")

    def __init__(self, flow: Flow, again: Callable[[], None]) -> None:
        """``again`` is called when the peer takes it."""
        self._flow = flow
        self._again = again
        self._peer: Leg | None = None
        self._timer: asyncio.Handle | None = None
        self._until = 0.0

    @property
    def waits(self) -> bool:
        """Whether the byte has to wait yet."""
        return self._timer is not None

    def begin(self, peer: Leg) -> None:
        """Ask this peer until it takes the byte, or reset the flow."""
        loop = asyncio.get_running_loop()
        self._peer = peer
        self._until = loop.time() + WAIT_SECONDS
        self._timer = loop.call_soon(self._look)  # not at once: a flow is not cut while its leg reads

    def stop(self) -> None:
        """The flow is over."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._peer = None

    def _look(self) -> None:
        self._timer = None
        flow, peer = self._flow, self._peer
        if flow.done or peer is None:
            self._peer = None
            return
        taken, loop = peer.takes_urgent(), asyncio.get_running_loop()
        if taken:
            self._peer = None
            self._again()
        elif taken is None and loop.time() < self._until:
            self._timer = loop.call_later(LOOK_SECONDS, self._look)
        else:
            self._peer = None
            flow.cut(Reason.URGENT_DATA, _NEVER if taken is False else _LATE)
