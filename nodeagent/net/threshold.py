"""Between accepting a connection and knowing who it is: what proves no identity gets little, and gives way.

A connection costs a descriptor and a few hundred octets until its first octet arrives; only then its protocol is made.
Handshakes that one peer may not begin yet wait, and nothing of them is read. Whoever has more than its share loses its
oldest connection, so that a newcomer always gets in.
"""

from __future__ import annotations

import socket
from asyncio import BaseProtocol
from collections import deque
from collections.abc import Callable
from select import EPOLLIN, EPOLLRDHUP
from struct import pack
from typing import Any, Final, Protocol

from control.wire.address import SocketAddress, canonical_ip
from nodeagent.limits.crowd import Crowd
from nodeagent.limits.excess import Excess
from nodeagent.limits.owner import network_of
from nodeagent.limits.rate import Rates
from nodeagent.net.poller import Poller
from nodeagent.net.tasks import Tasks
from nodeagent.reasons import Reason

SILENT_SECONDS: Final = 10.0
"""For the first octet, and for a turn after it."""
GRACE_SECONDS: Final = 1.0
"""A handshake that takes longer gives way to one that waits."""
TURN_SECONDS: Final = 0.1
"""How often waiting handshakes are looked at."""
AT_ONCE: Final = 4
"""Peers that have their share of handshakes at the same time before all give way to newcomers."""
_RESET_ON_CLOSE: Final = pack("ii", 1, 0)


class Handshake(Protocol):
    """The protocol of a connection that has sent its first octet."""

    def give_way(self, why: str) -> None:
        """End the connection now: another's turn has come."""


Turned = Callable[[SocketAddress | None, SocketAddress | None, Reason, str], None]
"""Hears of connections that ended before their protocol was made: remote and local address, and why."""


class Arrival:
    """One connection whose peer is not known."""

    __slots__ = ("_threshold", "began", "descriptor", "handle", "make", "owner", "peername", "protocol", "since")

    def __init__(
        self, threshold: Threshold, handle: socket.socket, peername: Any, make: Callable[[Arrival], BaseProtocol],
        since: float,
    ) -> None:  # fmt: skip
        self._threshold = threshold
        self.handle = handle
        self.descriptor = handle.fileno()
        self.peername = peername
        self.owner = network_of(peername[0].partition("%")[0])
        self.make = make
        self.since = since
        self.began = 0.0
        """When its handshake began; 0: it waits."""
        self.protocol: Any = None

    def over(self) -> None:
        """For its protocol: the peer has proved who it is, or the connection is gone. Called again it has no effect."""
        self._threshold.over(self)

    def ready(self, _events: int) -> None:
        """See ``poller.Watched``: the first octet, or the end."""
        self._threshold.spoke(self)

    def abort(self) -> None:
        """A defect."""
        self._threshold.turn_away(self, Reason.INTERNAL_ERROR, "defect while a connection was accepted")

    def bury(self) -> None:
        """See ``poller.Watched``."""
        self.handle.close()


class Threshold:
    """Of one worker, for all its listeners for tunnels."""

    def __init__(self, poller: Poller, tasks: Tasks, excess: Excess, turned: Turned) -> None:
        self._poller = poller
        self._tasks = tasks
        limits = excess.limits
        self._excess = excess
        self._turned = turned
        self._all: Crowd[Arrival] = Crowd(limits.unproved, limits.unproved_per_peer)
        share = limits.handshakes_at_once_per_peer
        self._shaking: Crowd[Arrival] = Crowd(AT_ONCE * share, share)
        self._rates = Rates(limits.handshakes_per_peer, 2 * limits.handshakes_per_peer)
        self._waiting: dict[str, deque[Arrival]] = {}
        self._asked = False

    def __len__(self) -> int:
        return len(self._all)

    def arrive(self, handle: socket.socket, peername: Any, make: Callable[[Arrival], BaseProtocol]) -> None:
        """A connection was accepted. ``make`` gives its protocol, a ``Handshake``, once it has sent something."""
        arrival = Arrival(self, handle, peername, make, self._now())
        oldest = self._all.gives_way(arrival.owner, _can_leave)
        if oldest is not None:
            limit = "unproved_per_peer" if oldest.owner == arrival.owner else "unproved"
            self._give_way(oldest, self._excess.refused(limit, oldest.owner))
        self._all.enter(arrival, arrival.owner)
        try:
            self._poller.add(arrival.descriptor, arrival, EPOLLIN | EPOLLRDHUP)
        except OSError as error:
            self._all.leave(arrival)
            handle.close()
            self._tell(arrival, Reason.OVERLOADED, f"it cannot be watched: {error}")

    def spoke(self, arrival: Arrival) -> None:
        """Its first octet is there, or its end."""
        try:
            first = arrival.handle.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError as error:
            self.turn_away(arrival, Reason.TLS_FAILURE, str(error))
            return
        if not first:
            self.turn_away(arrival, Reason.TLS_FAILURE, "the peer closed the connection without a word")
            return
        self._poller.remove(arrival.descriptor)
        self._waiting.setdefault(arrival.owner, deque()).append(arrival)
        self._next_of(arrival.owner)

    def over(self, arrival: Arrival) -> None:
        """See ``Arrival.over``."""
        if self._all.leave(arrival) and self._shaking.leave(arrival):
            arrival.protocol = None
            self._next_of(arrival.owner)

    def tick(self, now: float) -> None:
        """Once a second or so: who has said nothing for long is turned away."""
        late = [a for a in self._all if not a.began and now - a.since > SILENT_SECONDS]
        for arrival in late:
            self.turn_away(arrival, Reason.TLS_FAILURE, f"no TLS handshake within {SILENT_SECONDS:.0f} s")

    def close(self) -> None:
        """Turn everybody away who waits."""
        for arrival in [a for a in self._all if not a.began]:
            self.turn_away(arrival, Reason.AGENT_SHUTDOWN, "the agent stops")

    def turn_away(self, arrival: Arrival, reason: Reason, why: str) -> None:
        """End a connection that has no protocol yet: by a reset, so that the kernel keeps nothing of it."""
        if not self._all.leave(arrival):
            return
        queue = self._waiting.get(arrival.owner)
        if queue is not None and arrival in queue:
            queue.remove(arrival)
        arrival.handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._tell(arrival, reason, why)
        self._poller.doom(arrival.descriptor, arrival)

    def _tell(self, arrival: Arrival, reason: Reason, why: str) -> None:
        try:
            local: Any = arrival.handle.getsockname()
        except OSError:
            local = None
        self._turned(_address(arrival.peername), _address(local), reason, why)

    def _give_way(self, arrival: Arrival, why: str) -> None:
        if arrival.began and arrival.protocol is not None:
            arrival.protocol.give_way(why)
            self.over(arrival)
        else:
            self.turn_away(arrival, Reason.OVERLOADED, why)

    # --- whose turn it is ---

    def _next_of(self, owner: str) -> None:
        """Begin as many of this peer's handshakes as may begin."""
        queue = self._waiting.get(owner)
        while queue and self._has_room(owner) and self._rates.take(owner, self._now()):
            self._begin(queue.popleft())
        if queue:
            self._ask()
        else:
            self._waiting.pop(owner, None)

    def _has_room(self, owner: str) -> bool:
        if not self._shaking.full and not self._shaking.used_up(owner):
            return True
        oldest = self._shaking.gives_way(owner, _can_leave)
        if oldest is None or self._now() - oldest.began < GRACE_SECONDS:
            return False
        self._shaking.leave(oldest)  # first: its end makes room once
        why = self._excess.refused("handshakes_at_once_per_peer", oldest.owner)
        self._all.leave(oldest)
        oldest.protocol.give_way(why)
        return True

    def _begin(self, arrival: Arrival) -> None:
        arrival.began = self._now()
        self._shaking.enter(arrival, arrival.owner)
        self._tasks.spawn(self._open(arrival), "handshake")

    async def _open(self, arrival: Arrival) -> None:
        def protocol() -> BaseProtocol:
            made = arrival.make(arrival)
            arrival.protocol = made
            return made

        try:
            await self._tasks.loop.connect_accepted_socket(protocol, arrival.handle)
        except OSError as error:
            arrival.handle.close()
            self.over(arrival)
            self._tell(arrival, Reason.TLS_FAILURE, str(error))

    def _ask(self) -> None:
        """Look again soon: a peer's allowance comes back with time."""
        if not self._asked:
            self._asked = True
            self._tasks.loop.call_later(TURN_SECONDS, self._turn)

    def _turn(self) -> None:
        self._asked = False
        for owner in list(self._waiting):
            self._next_of(owner)

    def _now(self) -> float:
        return self._tasks.loop.time()


def _can_leave(arrival: Arrival) -> bool:
    """Not while the event loop is taking its socket over."""
    return not arrival.began or arrival.protocol is not None


def _address(name: Any) -> SocketAddress | None:
    return SocketAddress(canonical_ip(name[0].partition("%")[0]), name[1]) if name else None
