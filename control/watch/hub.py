"""Follows the store and tells every watching agent: a snapshot, or what it missed, then each change as one atomic
batch.

Order of starting: follow first, then read, then forward what came after the read, so that nothing falls between.
Several revisions that arrive together become one batch with the newest revision.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from control.kinds import node as nodes
from control.kinds.base.mesh import Mesh
from control.registry.catalogue import Catalogue
from control.registry.registry import PREFIX, Registry
from control.store.base import Compacted, Store, StoreError
from control.store.base import Watch as StoreWatch
from control.watch.projection import Objects, project
from control.watch.session import MAX_QUEUE, Session
from control.wire.codec import encode
from control.wire.watch import MAX_BATCH_BYTES, Batch, Change

HISTORY = 1024
"""Batches kept for agents that come back."""
MAX_RESUMED = MAX_QUEUE // 2
"""An agent that missed more batches gets a snapshot: it is shorter, and the queue keeps room for what comes
meanwhile."""
MAX_HISTORY_BYTES = 64 * 1024 * 1024
MAX_WATCHERS = 4096
MAX_WATCHERS_PER_NODE = 4
POLL_SECONDS = 5.0
RETRY_SECONDS = 1.0
PROJECTION_VERSION = 2
"""To be raised when the same resources project to other objects: agents then get a snapshot instead of resuming."""


class TooManyWatchersError(Exception):
    """A bound on watchers is reached; the message says which."""


class NotReadyError(Exception):
    """The hub has not read the registry yet."""


@dataclass(slots=True, kw_only=True)
class NodeStatus:
    """What control knows of a node's agent since control started."""

    node: str
    watching: int = 0
    """Open watches."""
    last_seen: float | None = None
    """When it was last sent something (wall clock, seconds since 1970)."""
    revision: int | None = None
    """The last revision that was sent to it."""


class Hub:
    """One per process. All methods but ``run`` are for the event loop's thread."""

    def __init__(self, store: Store, registry: Registry, mesh: Mesh, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._registry = registry
        self._mesh = mesh
        self._clock = clock
        self.instance = _instance(store.instance, mesh)
        self.revision = 0
        self.ready = False
        self._closing = False
        self._catalogue = Catalogue((), 0)
        self._objects: Objects = {}
        self._history: deque[tuple[int, bytes]] = deque()
        self._history_bytes = 0
        self._oldest = 0
        self._sessions: set[Session] = set()
        self._statuses: dict[str, NodeStatus] = {}
        self._snapshot: tuple[int, bytes] | None = None
        self._watch: StoreWatch | None = None

    @property
    def catalogue(self) -> Catalogue:
        """What the agents are being told about."""
        return self._catalogue

    async def run(self, on_error: Callable[[str], None]) -> None:
        """Follow the store until ``close``; trouble is reported and retried."""
        while not self._closing:
            try:
                await self._follow()
            except Compacted:
                continue
            except StoreError as error:
                on_error(f"following the store failed: {error}; trying again")
                await asyncio.sleep(RETRY_SECONDS)

    async def _follow(self) -> None:
        self._watch = watch = self._store.watch(PREFIX, self._store.revision)
        await self._refresh()
        while not self._closing:
            commits = await asyncio.to_thread(watch.poll, POLL_SECONDS)
            if any(commit.revision > self.revision for commit in commits):
                await self._refresh()
            else:
                self.revision = max(self.revision, watch.revision)

    async def _refresh(self) -> None:
        """Read, project and compare off the loop; publish on it."""
        catalogue, objects, changes, line = await asyncio.to_thread(self._prepare)
        first = not self.ready
        self._catalogue, self._objects, self._snapshot = catalogue, objects, None
        self.revision = max(self.revision, catalogue.revision)
        if first:
            self._oldest = self.revision
            self.ready = True
        elif changes:
            self._remember(self.revision, line)
            for session in list(self._sessions):
                session.offer(self.revision, line)
        self._drop_removed_nodes()

    def _prepare(self) -> tuple[Catalogue, Objects, tuple[Change, ...], bytes]:
        catalogue = self._registry.catalogue()
        objects = project(catalogue, self._mesh)
        changes = difference(self._objects, objects) if self.ready else ()
        line = self._line(Batch(instance=self.instance, revision=catalogue.revision, changes=changes))
        return catalogue, objects, changes, line

    def open(self, node: str, instance: str | None, revision: int | None, on_overflow: Callable[[], None]) -> Session:
        """A session that starts with a snapshot, or after ``revision`` if that can be resumed."""
        if not self.ready:
            raise NotReadyError("control has not read its store yet; try again")
        if len(self._sessions) >= MAX_WATCHERS:
            raise TooManyWatchersError(f"{MAX_WATCHERS} watches are open, as many as this control serves")
        if sum(session.node == node for session in self._sessions) >= MAX_WATCHERS_PER_NODE:
            raise TooManyWatchersError(f"node {node} has {MAX_WATCHERS_PER_NODE} open watches; close one first")
        session = Session(node, on_overflow)
        self._sessions.add(session)
        self._status(node).watching += 1
        if self._can_resume(instance, revision):
            assert revision is not None
            missed = [(r, line) for r, line in self._history if r > revision]
            for at, line in missed or [self.heartbeat()]:
                session.offer(at, line)
        else:
            session.offer(*self._whole())
        return session

    def _can_resume(self, instance: str | None, revision: int | None) -> bool:
        if instance != self.instance or revision is None or not self._oldest <= revision <= self.revision:
            return False
        return sum(r > revision for r, _ in self._history) <= MAX_RESUMED

    def release(self, session: Session) -> None:
        """The response is over."""
        session.close()
        if session in self._sessions:
            self._sessions.discard(session)
            self._status(session.node).watching -= 1

    def sent(self, session: Session, revision: int) -> None:
        """The batch of this revision went to the session's agent."""
        status = self._status(session.node)
        status.last_seen, status.revision = self._clock(), revision

    def heartbeat(self) -> tuple[int, bytes]:
        """A batch without changes."""
        return self.revision, self._line(Batch(instance=self.instance, revision=self.revision))

    def statuses(self) -> list[NodeStatus]:
        """Of every node of the registry, by name, whether it was seen or not."""
        return [self._statuses.get(node.name) or NodeStatus(node=node.name) for node in self._catalogue.of(nodes.KIND)]

    def close(self) -> None:
        """End all sessions and ``run``."""
        self._closing = True
        if self._watch is not None:
            self._watch.close()
        for session in list(self._sessions):
            session.close()

    def _status(self, node: str) -> NodeStatus:
        return self._statuses.setdefault(node, NodeStatus(node=node))

    def _whole(self) -> tuple[int, bytes]:
        if self._snapshot is None:
            batch = Batch(
                instance=self.instance, revision=self.revision, snapshot=True, changes=difference({}, self._objects)
            )
            self._snapshot = self.revision, self._line(batch)
        return self._snapshot

    def _remember(self, revision: int, line: bytes) -> None:
        self._history.append((revision, line))
        self._history_bytes += len(line)
        while len(self._history) > HISTORY or self._history_bytes > MAX_HISTORY_BYTES:
            self._oldest, dropped = self._history.popleft()
            self._history_bytes -= len(dropped)

    def _drop_removed_nodes(self) -> None:
        present = {node.name for node in self._catalogue.of(nodes.KIND)}
        for session in list(self._sessions):
            if session.node not in present:
                session.close()
        for name in [n for n, s in self._statuses.items() if n not in present and not s.watching]:
            del self._statuses[name]

    def _line(self, batch: Batch) -> bytes:
        line = json.dumps(encode(batch), separators=(",", ":")).encode() + b"\n"
        if len(line) > MAX_BATCH_BYTES:
            raise StoreError(f"a batch of {len(line)} bytes; agents read at most {MAX_BATCH_BYTES}")
        return line


def difference(before: Objects, after: Objects) -> tuple[Change, ...]:
    """What turns one into the other: new and changed objects, then those that are gone."""
    changes = [
        Change(kind=kind, uid=uid, value=encode(value))
        for (kind, uid), value in after.items()
        if before.get((kind, uid)) != value
    ]
    changes += [Change(kind=kind, uid=uid) for kind, uid in before if (kind, uid) not in after]
    return tuple(changes)


def _instance(store_instance: str, mesh: Mesh) -> str:
    """Another run is another history, though the store is the same: a backup may have been restored in between, and
    then the same revision means something else. Another mesh configuration or projection is one, too."""
    about = json.dumps([PROJECTION_VERSION, mesh.trust_domain, mesh.cluster, mesh.roots]).encode()
    return f"{store_instance}-{hashlib.sha256(about).hexdigest()[:12]}-{uuid.uuid4().hex[:12]}"
