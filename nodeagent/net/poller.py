"""One epoll for all application sockets of a worker; the loop watches it as a single descriptor.

A transport of the event loop costs a dozen system calls and half as many turns to make and to let go: more than all the
rest of a short connection. Here a connection is one registration, level triggered: what a handler leaves is told again.
"""

from __future__ import annotations

import logging
from asyncio import AbstractEventLoop
from errno import ESHUTDOWN
from select import epoll
from typing import Final, Protocol

MAX_EVENTS: Final = 64
"""Sockets that are looked at in one round; the kernel names the others first in the next one."""
ROUNDS: Final = 2
"""Rounds in a turn of the loop: what has followed meanwhile goes out with the rest of the turn."""
FEW: Final = 3
"""Of which there is no second round: most likely nothing has followed, and asking costs a system call."""

_log = logging.getLogger("nodeagent.net")


class Watched(Protocol):
    """Whoever owns a registered descriptor."""

    def ready(self, events: int) -> None:
        """These ``EPOLL*`` events hold now."""

    def abort(self) -> None:
        """``ready`` failed by a defect: let go of the descriptor."""

    def bury(self) -> None:
        """No handler runs and no event is due: close the descriptor."""


class Poller:
    """Of one worker."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.loop = loop
        self._epoll = epoll()
        self._watched: dict[int, Watched] = {}
        self._doomed: list[Watched] = []
        self._burial_asked = False
        loop.add_reader(self._epoll.fileno(), self._turn)

    def add(self, descriptor: int, owner: Watched, events: int) -> None:
        """Watch the descriptor. OSError where the kernel's limit for that is reached, and once the poller is closed."""
        if self._epoll.closed:
            raise OSError(ESHUTDOWN, "this worker stops")
        self._epoll.register(descriptor, events)
        self._watched[descriptor] = owner

    def change(self, descriptor: int, events: int) -> None:
        """Watch for other events; errors and hang-ups are told in any case."""
        if not self._epoll.closed:
            self._epoll.modify(descriptor, events)

    def remove(self, descriptor: int) -> None:
        """Watch it no more; it stays open."""
        if self._watched.pop(descriptor, None) is not None and not self._epoll.closed:
            self._epoll.unregister(descriptor)

    def doom(self, descriptor: int, owner: Watched) -> None:
        """Nothing is told of the descriptor from now on; ``owner.bury`` closes it soon. Not at once: another handler
        could be given a new socket by the same number while events of the old one are due.
        """
        self.remove(descriptor)  # closing is not enough: a forked process may hold the same socket
        self._doomed.append(owner)
        if not self._burial_asked:
            self._burial_asked = True
            self.loop.call_soon(self._bury)

    def close(self) -> None:
        """Watch nothing more. What is registered still belongs to its owner, which may go on using this object: the
        loop may hold callbacks of owners that were scheduled before.
        """
        if not self._epoll.closed:
            self.loop.remove_reader(self._epoll.fileno())
            self._bury()
            self._epoll.close()

    def _turn(self) -> None:
        watched = self._watched
        for _ in range(ROUNDS):
            if self._epoll.closed:  # by a handler
                return
            events = self._epoll.poll(0, MAX_EVENTS)
            for descriptor, happened in events:
                owner = watched.get(descriptor)
                if owner is None:  # doomed by the handler of another
                    continue
                try:
                    owner.ready(happened)
                except Exception:  # this socket ends, the others go on
                    _log.exception("defect while handling an application's socket")
                    owner.abort()
            if len(events) < FEW:
                return

    def _bury(self) -> None:
        self._burial_asked = False
        doomed, self._doomed = self._doomed, []
        for owner in doomed:
            try:
                owner.bury()
            except Exception:
                _log.exception("defect while closing an application's socket")
