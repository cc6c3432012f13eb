"""The network namespaces that enrolled processes live in: found, held open for the workers, and let go.

A namespace is the mesh's while an enrolled process is in it. That is what is looked at, not whether it exists: what
the agent itself has in there (this handle, listeners, connections) keeps it alive.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from nodeagent.channel import NamespaceEntry, Namespaces, NamespaceState
from nodeagent.namespaces.census import census
from nodeagent.namespaces.entry import NamespaceError
from nodeagent.namespaces.handle import Namespace, own
from nodeagent.namespaces.loopback import has_ipv6_loopback
from nodeagent.namespaces.sources import NO_SOURCES, Sources, sources

MAX_NAMESPACES: Final = 4000
"""Network namespaces that one agent serves (``MESH_MAX_LISTENERS`` of the BPF programs, less some). Connections of
enrolled processes in others are refused."""
YOUNG_STEPS: Final = 20
"""A cgroup is looked at in each of its first steps, and of those after a change: its processes may not be in their
namespace yet."""
SHARES: Final = 4
"""Later a step looks at one in so many: at a step every 0.25 s a change is seen within a second."""
ELSEWHERE_GONE: Final = -1

logger = logging.getLogger(__name__)


class Serving(Protocol):
    """What is used of ``capture.controller.Capture``."""

    def guard(self, namespace: Namespace) -> list[str]:
        """The agent's ports are nobody else's in this network namespace; problems."""

    def release(self, namespace: Namespace) -> None:
        """``unserve``, and they are anybody's again."""

    def serve(
        self, cookie: int, port: int, dns_port: int = 0, *, ipv6: bool = True, source: Sources = NO_SOURCES
    ) -> None:
        """Captured connections and questions of this network namespace, which has ::1 or has not, go to these ports: a
        worker listens there.
        """

    def unserve(self, cookie: int) -> None:
        """Connections of enrolled processes in this namespace are refused."""

    def serve_only(self, cookies: set[int]) -> None:
        """Connections of enrolled processes in any other namespace are refused."""


@dataclass(slots=True)
class _Watched:
    """A cgroup of a workload, and where its processes were last seen."""

    steps: int = 0
    threaded: bool = False
    """Whether threads of its processes are in other namespaces than these."""
    inodes: dict[int, int] = field(default_factory=dict)

    def census(self, directory: Path | None, *, threads: bool) -> dict[int, int]:
        """``threads``: somebody was refused, and may be a thread that went elsewhere on its own. Where one was found
        they are looked at from then on, until there is none: it costs a look at each thread.
        """
        if directory is None:
            return {}
        found = census(directory)
        if threads or self.threaded:
            whole = census(directory, threads=True)
            self.threaded = whole.keys() > found.keys()
            found = {**whole, **found}
        return found


class NodeNamespaces:
    """Every namespace but the agent's own. ``publish`` tells the workers which there are, and who is where."""

    def __init__(self, serving: Serving, ports: tuple[int, int], publish: Callable[[Namespaces], None]) -> None:
        """``ports``: for captured connections and for DNS questions."""
        self._serving = serving
        self._ports = ports
        self._publish = publish
        self._watched: dict[int, _Watched] = {}
        self._held: dict[int, Namespace] = {}
        """By inode: while it is held the number stands for no other."""
        self._served: dict[int, tuple[bool, bool]] = {}
        """Cookie -> whether DNS questions are answered too, and whether there is IPv6."""
        self._homes: dict[str, tuple[int, ...]] = {}
        self._turn = itertools.count()
        self._settled = False
        self._unopened: dict[int, str] = {}
        self._worker_problems: dict[int, str] = {}

    def look(self, cgroups: Mapping[int, str], directories: Mapping[int, Path], *, everywhere: bool = False) -> None:
        """One step: these are the enrolled cgroups, their workloads and their directories now."""
        for gone in self._watched.keys() - cgroups.keys():
            del self._watched[gone]
        turn = next(self._turn) % SHARES
        for cgroup in cgroups:
            watched = self._watched.setdefault(cgroup, _Watched())
            watched.steps += 1
            if everywhere or watched.steps <= YOUNG_STEPS or cgroup % SHARES == turn:
                found = watched.census(directories.get(cgroup), threads=everywhere)
                if found.keys() != watched.inodes.keys():
                    watched.steps = 1  # who moves may move on
                watched.inodes = found
        inhabited = {inode: pid for watched in self._watched.values() for inode, pid in watched.inodes.items()}
        news = self._open(inhabited)
        departed = [inode for inode in self._held if inode not in inhabited]
        homes = self._find_homes(cgroups)
        if news or departed or homes != self._homes:
            self._homes = homes
            leaving = [self._held.pop(inode) for inode in departed]
            self._tell()
            for namespace in leaving:
                self._let_go(namespace)
        for cookie, (answers, ipv6) in tuple(self._served.items()):
            if not ipv6:  # runtimes bring the loopback up after the first process is in
                self._serve(cookie, answers)
        if not self._settled:
            self._settled = True
            self._serving.serve_only({namespace.cookie for namespace in self._held.values()})

    def _open(self, inhabited: Mapping[int, int]) -> list[Namespace]:
        """Hold what is new. A namespace that cannot be opened is tried again at each step."""
        news = []
        unopened: dict[int, str] = {}
        for inode, pid in inhabited.items():
            if inode == own().inode or inode in self._held:
                continue
            if len(self._held) >= MAX_NAMESPACES:
                unopened[inode] = f"more than {MAX_NAMESPACES} network namespaces: those in the others are refused"
                break
            try:
                namespace = Namespace.open(f"/proc/{pid}/ns/net")
            except NamespaceError as error:
                if Path(f"/proc/{pid}").exists():
                    unopened[inode] = f"{error}; connections of its enrolled processes to the mesh are refused"
                continue
            if namespace.inode != inode or namespace.inode in self._held:  # the process went elsewhere meanwhile
                namespace.close()
                continue
            self._held[inode] = namespace
            for problem in self._serving.guard(namespace):
                logger.error("%s", problem)
            news.append(namespace)
            logger.info("network namespace %d (cookie %d): process %d is enrolled", inode, namespace.cookie, pid)
        for problem in set(unopened.values()) - set(self._unopened.values()):
            logger.error("%s", problem)
        self._unopened = unopened
        return news

    def _let_go(self, namespace: Namespace) -> None:
        logger.info("network namespace %d (cookie %d): its last enrolled process has left", *_names(namespace))
        self._served.pop(namespace.cookie, None)
        self._worker_problems.pop(namespace.cookie, None)
        self._serving.release(namespace)
        namespace.close()

    def _find_homes(self, cgroups: Mapping[int, str]) -> dict[str, tuple[int, ...]]:
        """Cookies of the namespaces of each workload that is not, or not only, in the agent's own."""
        places: dict[str, set[int]] = {}
        for cgroup, watched in self._watched.items():
            for inode in watched.inodes:
                namespace = self._held.get(inode)
                if namespace is not None or inode == own().inode:
                    cookie = namespace.cookie if namespace is not None else own().cookie
                    places.setdefault(cgroups[cgroup], set()).add(cookie)
        homes = {uid: tuple(sorted(cookies)) for uid, cookies in places.items() if cookies != {own().cookie}}
        # of whom every process has ended: nobody may be taken for it, not even at its address
        uids = set(cgroups.values())
        for uid, cookies in self._homes.items():
            if uid in uids and uid not in places:
                homes[uid] = tuple(cookie for cookie in cookies if cookie == ELSEWHERE_GONE) or (ELSEWHERE_GONE,)
        return homes

    def _tell(self) -> None:
        entries = tuple(
            NamespaceEntry(cookie=namespace.cookie, inode=namespace.inode, path=namespace.path_for_others)
            for namespace in self._held.values()
        )
        self._publish(Namespaces(namespaces=entries, homes=self._homes))

    def served(self, states: Iterable[NamespaceState]) -> None:
        """What the workers made of the namespaces."""
        held = {namespace.cookie for namespace in self._held.values()}
        known = [state for state in states if state.cookie in held]
        answering = {state.cookie for state in known if state.answering}
        for cookie in {state.cookie for state in known if state.listening}:
            self._serve(cookie, cookie in answering)
        fresh = {state.cookie: state.problem for state in known if state.problem}
        for cookie, why in fresh.items():
            if self._worker_problems.get(cookie) != why:
                logger.error("network namespace with cookie %d: %s", cookie, why)
        self._worker_problems = fresh

    def _serve(self, cookie: int, answers: bool) -> None:
        """What differs from what the kernel was told."""
        namespace = next((held for held in self._held.values() if held.cookie == cookie), None)
        wanted = (answers, has_ipv6_loopback(namespace) if namespace is not None else True)
        if self._served.get(cookie) != wanted:
            self._serving.serve(
                cookie, self._ports[0], self._ports[1] if answers else 0, ipv6=wanted[1], source=sources(namespace)
            )
            self._served[cookie] = wanted

    @property
    def problems(self) -> tuple[str, ...]:
        """Namespaces whose enrolled processes cannot use the mesh, or not all of it, and why."""
        inodes = {namespace.cookie: namespace.inode for namespace in self._held.values()}
        told = [f"network namespace {inodes[c]}: {why}" for c, why in self._worker_problems.items() if c in inodes]
        return (*self._unopened.values(), *told)

    def __len__(self) -> int:
        return len(self._held)

    def inodes_of(self, cgroup: int) -> Collection[int]:
        """Inodes of the namespaces in which processes of the cgroup were last seen."""
        watched = self._watched.get(cgroup)
        return () if watched is None else watched.inodes.keys()

    def unserved(self, cgroup: int) -> str:
        """Why processes of the cgroup are in a namespace where no worker listens; empty if there are none there."""
        for inode in self.inodes_of(cgroup):
            if inode == own().inode:
                continue
            namespace = self._held.get(inode)
            if namespace is None:
                return self._unopened.get(inode) or f"network namespace {inode} is not opened yet"
            if namespace.cookie not in self._served:
                problem = self._worker_problems.get(namespace.cookie)
                return f"the agent does not listen in network namespace {inode} yet" + (f": {problem}" * bool(problem))
        return ""

    def hurry(self, cgroups: Iterable[int]) -> None:
        """Look at these at the next step: somebody waits there."""
        for cgroup in cgroups:
            if (watched := self._watched.get(cgroup)) is not None:
                watched.steps = 0

    def of_workload(self, uid: str, cgroups: Mapping[int, str]) -> list[dict[str, Any]]:
        """For ``nodeagent workloads``: where its processes are, and whether they are served there."""
        rows: dict[int, dict[str, Any]] = {}
        for cgroup, watched in self._watched.items():
            if cgroups.get(cgroup) != uid:
                continue
            for inode in watched.inodes:
                namespace = self._held.get(inode)
                if inode == own().inode:
                    rows[inode] = {"inode": inode, "own": True, "served": True, "problem": ""}
                elif namespace is not None:
                    cookie = namespace.cookie
                    problem = self._worker_problems.get(cookie, "")
                    rows[inode] = {"inode": inode, "own": False, "served": cookie in self._served, "problem": problem}
                else:
                    problem = self._unopened.get(inode, "")
                    rows[inode] = {"inode": inode, "own": False, "served": False, "problem": problem}
        return [rows[inode] for inode in sorted(rows)]

    def document(self) -> dict[str, Any]:
        """For ``nodeagent status``."""
        return {"held": len(self._held), "served": len(self._served), "problems": list(self.problems)}

    def homes_of(self, uid: str) -> tuple[Namespace, ...]:
        """The namespaces that a workload's processes are in; the agent's own if none is known."""
        held = {namespace.cookie: namespace for namespace in (*self._held.values(), own())}
        return tuple(held[c] for c in self._homes.get(uid, ()) if c in held) or (own(),)

    def close(self) -> None:
        """Let go of every handle; what the kernel was told stays: enrolled processes are refused, not let past."""
        for namespace in self._held.values():
            namespace.close()
        self._held.clear()


def _names(namespace: Namespace) -> tuple[int, int]:
    return namespace.inode, namespace.cookie
