"""The network namespaces that the manager found: opened, listened in, let go, each with everything that is in it.

A namespace is opened the moment the manager names it, before anybody can ask for a workload in it; listeners follow.
"""

from __future__ import annotations

import errno
import logging
from asyncio import AbstractEventLoop, sleep
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from control.wire.address import SocketAddress
from nodeagent.channel import NamespaceEntry, Namespaces, NamespaceState
from nodeagent.namespaces.entry import NamespaceError
from nodeagent.namespaces.handle import Namespace, own
from nodeagent.net.accepting import ListenError
from nodeagent.net.poller import Poller
from nodeagent.net.sockets import has_address
from nodeagent.net.tasks import Tasks
from nodeagent.relay.departures import LINGER_SECONDS, OrphanReaper
from nodeagent.worker.listeners import ListenerPlan, WorkerListeners

SWEEP_SECONDS: Final = 0.5
"""How often a namespace that is to go is looked at again while connections end in it."""
_GONE: Final = -1

_log = logging.getLogger("nodeagent.worker")


class HomelessError(OSError):
    """A workload cannot be connected to, because it is not known where it lives, or that cannot be used."""

    def __init__(self, why: str) -> None:
        super().__init__(errno.ECONNREFUSED, why)
        self._why = why

    def __str__(self) -> str:
        return self._why


@dataclass(slots=True)
class _Place:
    """A namespace that this worker is in."""

    namespace: Namespace | None
    listeners: WorkerListeners
    opened: bool = False
    """Whether the listeners were opened, or as many of them as ``problem`` leaves."""
    problem: str = ""


@dataclass(slots=True)
class _Leaving:
    namespace: Namespace
    until: float


class NetnsListeners:
    """The namespaces of one worker, and who lives in which (``relay.services.Homes``)."""

    def __init__(self, loop: AbstractEventLoop, tasks: Tasks, poller: Poller) -> None:
        self._loop = loop
        self._tasks = tasks
        self._poller = poller
        self._wanted: dict[int, NamespaceEntry] = {}
        self._homes: Mapping[str, tuple[int, ...]] = {}
        self._places: dict[int, _Place] = {}
        self._leaving: list[_Leaving] = []
        self._doors: ListenerPlan | None = None
        self._departures: OrphanReaper | None = None
        self._report: Callable[[tuple[NamespaceState, ...]], None] | None = None
        self._told: tuple[NamespaceState, ...] = ()
        self._unanswered = False
        self._busy = False
        self._workers = 1
        self._closed = False

    async def open(
        self, doors: ListenerPlan, departures: OrphanReaper, report: Callable[[tuple[NamespaceState, ...]], None]
    ) -> None:
        """Open listeners in every namespace that the manager has named so far, and in others as it names them.
        ``report`` hears what became of each namespace, the first time before this returns.
        """
        self._doors, self._departures, self._report = doors, departures, report
        self._busy = True
        await self._bring_about(doors)

    def tell(self, message: Namespaces) -> None:
        """What the manager found. Who lives where holds at once, listeners follow."""
        self._homes = message.homes
        self._wanted = {entry.cookie: entry for entry in message.namespaces}
        for cookie, entry in self._wanted.items():
            if cookie not in self._places:
                self._places[cookie] = self._enter(entry)
        self._unanswered = True
        self.bring_about()

    def bring_about(self) -> None:
        """Open and leave namespaces as wanted; also what could not be opened before."""
        if self._doors is not None and not self._busy and not self._closed and (self._unanswered or self._due()):
            self._busy = True
            self._tasks.spawn(self._bring_about(self._doors), "namespaces")

    def _due(self) -> bool:
        return self._places.keys() != self._wanted.keys() or not all(map(self._served, self._places))

    async def _bring_about(self, doors: ListenerPlan) -> None:
        tried = set[int]()
        try:
            while not self._closed:
                for cookie in self._places.keys() - self._wanted.keys():
                    self._leave(self._places.pop(cookie))
                todo = [cookie for cookie in self._wanted if cookie not in tried and not self._served(cookie)]
                for cookie in todo:
                    await self._listen(cookie, doors)
                tried.update(todo)
                if not todo:  # nothing else was wanted meanwhile
                    break
        finally:
            self._busy = False
        states = tuple(_state(cookie, place) for cookie, place in self._places.items())
        if self._report is not None and (self._unanswered or states != self._told):
            self._unanswered, self._told = False, states
            self._report(states)

    def _served(self, cookie: int) -> bool:
        place = self._places[cookie]
        return place.opened and not place.problem

    def _enter(self, entry: NamespaceEntry) -> _Place:
        place = _Place(None, WorkerListeners(self._poller))
        place.listeners.spread(self._workers)
        try:
            place.namespace = _opened(entry)
        except NamespaceError as error:
            place.problem = str(error)
        return place

    async def _listen(self, cookie: int, doors: ListenerPlan) -> None:
        """Open what is missing in a namespace. Whatever fails is reported, and tried again at the next tick."""
        entry, place = self._wanted.get(cookie), self._places[cookie]
        if entry is None:  # the manager let go of it meanwhile
            return
        try:
            if place.namespace is None:
                place.namespace = _opened(entry)
            place.problem = await place.listeners.open_inside(place.namespace, doors)
            place.opened = True
        except (NamespaceError, ListenError) as error:
            place.problem = str(error)
        if self._closed or cookie not in self._wanted:
            self._places.pop(cookie, None)
            self._leave(place)

    def _leave(self, place: _Place) -> None:
        """Accept nothing more in it; let its connections end, and then the namespace go."""
        place.listeners.close()
        namespace, departures = place.namespace, self._departures
        if namespace is None:
            return
        if departures is not None and (cut := departures.namespaces({namespace}, last=False)):
            _log.warning("network namespace %d: %d connections were reset with its end", namespace.inode, cut)
        self._leaving.append(_Leaving(namespace, self._loop.time() + LINGER_SECONDS))
        if len(self._leaving) == 1:
            self._tasks.spawn(self._sweep(), "leave namespaces")

    async def _sweep(self) -> None:
        while self._leaving:
            inhabited = self._departures.inhabited() if self._departures is not None else set()
            now = self._loop.time()
            for leaving in tuple(self._leaving):
                if leaving.namespace in inhabited and now < leaving.until:
                    continue
                if leaving.namespace in inhabited and self._departures is not None:
                    self._departures.namespaces({leaving.namespace}, last=True)
                leaving.namespace.close()
                self._leaving.remove(leaving)
            if self._leaving:
                await sleep(SWEEP_SECONDS)

    def spread(self, workers: int) -> None:
        """See ``WorkerListeners.spread``."""
        self._workers = workers
        for place in self._places.values():
            place.listeners.spread(workers)

    def close(self) -> None:
        """No further connection is accepted in any."""
        self._closed = True
        for place in self._places.values():
            place.listeners.close()

    def __len__(self) -> int:
        return len(self._places) + len(self._leaving)

    # --- who lives where ---

    def of(self, uid: str, address: SocketAddress) -> Namespace | None:
        """Where to connect to the workload; None: in the agent's own namespace. HomelessError: nowhere."""
        cookies = self._homes.get(uid)
        if cookies is None:
            return None
        if _GONE in cookies:
            raise HomelessError("no process of the workload runs; it had a network namespace of its own, which is gone")
        found = [self._at(cookie) for cookie in cookies]
        if len(found) > 1:
            having = [namespace for namespace in found if _has(namespace, address)]
            if len(having) != 1:
                raise HomelessError(
                    f"the workload's processes are in {len(found)} network namespaces, of which {len(having)} have "
                    f"the address {address.ip}: give it an address of its own, or select an inner cgroup"
                )
            found = having
        return found[0]

    def here(self, namespace: Namespace, uid: str) -> bool:
        """Whether the workload has processes in the namespace."""
        return namespace.cookie in self._homes.get(uid, ())

    def _at(self, cookie: int) -> Namespace | None:
        if cookie == own().cookie:
            return None
        place = self._places.get(cookie)
        if place is None or place.namespace is None:
            why = place.problem if place is not None else "its last enrolled process has left it"
            raise HomelessError(f"the workload's network namespace cannot be used: {why}")
        return place.namespace


def _state(cookie: int, place: _Place) -> NamespaceState:
    listeners = place.listeners
    return NamespaceState(
        cookie=cookie, listening=listeners.captures, answering=listeners.answers is not None, problem=place.problem
    )


def _has(namespace: Namespace | None, address: SocketAddress) -> bool:
    try:
        return has_address(namespace, address.ip)
    except OSError:
        return False


def _opened(entry: NamespaceEntry) -> Namespace:
    namespace = Namespace.open(entry.path)
    if namespace.cookie != entry.cookie:  # the manager let go of it, and the descriptor is another's
        namespace.close()
        raise NamespaceError(f"network namespace {entry.inode} is gone already")
    return namespace
