"""Connections to an admin port: how many, how many of one peer, and for how long each may do nothing.

A newcomer always gets in: where its peer's share or the whole is used up, the connection that has waited for longest
without a request gives way. Readiness has guests of its own, so that neither scrapers nor readers of ``/debug`` can be
in its way.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, TimerHandle, Transport
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

from nodeagent.limits.crowd import Crowd
from nodeagent.limits.excess import Excess
from nodeagent.limits.owner import network_of

HEAD_SECONDS: Final = 5.0
"""For a request to arrive whole, from the connection's begin or from the end of the answer before it."""
ANSWER_SECONDS: Final = 30.0
"""For an answer to be made and to be read by who asked."""
LOOK_SECONDS: Final = 1.0


class Guests:
    """Of one port."""

    def __init__(self, port: str, excess: Excess) -> None:
        limits = excess.limits
        self.crowd: Crowd[GuestProtocol] = Crowd(limits.admin_connections, limits.admin_connections_per_peer)
        self._port = port
        self._excess = excess
        self._timer: TimerHandle | None = None

    def protocol(self, *positional: Any, **named: Any) -> GuestProtocol:
        """What uvicorn makes for each connection."""
        return GuestProtocol(self, *positional, **named)

    def enter(self, guest: GuestProtocol, owner: str) -> bool:
        """Let a connection in; False: it is refused, since all others are being answered."""
        crowd = self.crowd
        if crowd.full or crowd.used_up(owner):
            limit = "admin_connections_per_peer" if crowd.used_up(owner) else "admin_connections"
            whose = owner if crowd.used_up(owner) else crowd.heaviest
            self._excess.abused(limit, whose, f"{whose} has used up its share of port {self._port} (limits.{limit})")
            idle = crowd.gives_way(owner, lambda other: not other.busy)
            if idle is None:
                return False
            idle.leave()
        crowd.enter(guest, owner)
        if self._timer is None:
            self._timer = guest.loop.call_later(LOOK_SECONDS, self._look, guest.loop)
        return True

    def _look(self, loop: AbstractEventLoop) -> None:
        now = loop.time()
        for guest in list(self.crowd):
            if guest.late(now):
                guest.leave()
        self._timer = loop.call_later(LOOK_SECONDS, self._look, loop) if len(self.crowd) else None


class GuestProtocol(H11Protocol):
    """One connection."""

    def __init__(self, guests: Guests, *positional: Any, **named: Any) -> None:
        super().__init__(*positional, **named)
        self._guests = guests
        self._answering: Any = None
        self._since = self.loop.time()

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Accepted."""
        super().connection_made(transport)
        owner = network_of(self.client[0].partition("%")[0]) if self.client else "local"
        if not self._guests.enter(self, owner):
            self.leave()

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone."""
        self._guests.crowd.leave(self)
        super().connection_lost(exc)

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def late(self, now: float) -> bool:
        """Whether it has had its time; asked every second."""
        answering = self.cycle if self.busy else None
        if answering is not self._answering:
            self._answering, self._since = answering, now
        return now - self._since > (HEAD_SECONDS if answering is None else ANSWER_SECONDS)

    def leave(self) -> None:
        """Close it now."""
        self._guests.crowd.leave(self)
        self.transport.abort()
