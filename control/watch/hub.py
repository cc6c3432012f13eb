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
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from control.codec.content import Content
from control.codec.lines import write_change, write_line
from control.codec.values import to_json
from control.kinds import node as nodes
from control.kinds.base.mesh import Mesh
from control.registry.catalogue import Catalogue
from control.registry.registry import PREFIX, Registry
from control.store.base import Compacted, Store, StoreError
from control.store.base import Watch as StoreWatch
from control.watch.projection import Objects, project
from control.watch.session import MAX_QUEUE, Session
from control.wire.watch import MAX_BATCH_BYTES, Change

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


Key = tuple[str, str]


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


@dataclass(frozen=True, slots=True)
class Remembered:
    """A batch that agents may have missed."""

    revision: int
    line: bytes
    digest: str
    """Of the content after the batch."""


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
        self._encoded: dict[Key, bytes] = {}
        """Each object as it stands in a line: it is encoded when it changes, and then never again."""
        self._content = Content()
        self._digest = ""
        self._history: deque[Remembered] = deque()
        self._history_bytes = 0
        self._oldest = (0, "")
        """Revision and digest before the first batch of the history."""
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
        """Read, project, compare and encode off the loop; publish on it."""
        prepared = await asyncio.to_thread(self._prepare)
        first = not self.ready
        self._catalogue, self._objects, self._snapshot = prepared.catalogue, prepared.objects, None
        self._digest = prepared.digest
        self.revision = max(self.revision, prepared.catalogue.revision)
        if first:
            self._oldest = self.revision, self._digest
            self.ready = True
        elif prepared.line:
            self._remember(Remembered(self.revision, prepared.line, self._digest))
            for session in list(self._sessions):
                session.offer(self.revision, prepared.line)
        self._drop_removed_nodes()

    def _prepare(self) -> _Prepared:
        catalogue = self._registry.catalogue()
        objects = project(catalogue, self._mesh)
        changes = difference(self._objects, objects)
        encoded = {(change.kind, change.uid): write_change(change) for change in changes}
        line = self._line(catalogue.revision, encoded.values()) if self.ready and changes else b""
        for change in changes:
            self._content.put(change.kind, change.uid, change.value)
            if change.value is None:
                self._encoded.pop((change.kind, change.uid), None)
            else:
                self._encoded[change.kind, change.uid] = encoded[change.kind, change.uid]
        return _Prepared(catalogue, objects, line, self._content.digest())

    def open(
        self, node: str, instance: str | None, revision: int | None, on_overflow: Callable[[], None], content: str = ""
    ) -> Session:
        """A session that starts with a snapshot, or after ``revision`` if an agent that holds the ``content`` of this
        digest can resume there."""
        if not self.ready:
            raise NotReadyError("control has not read its store yet; try again")
        if len(self._sessions) >= MAX_WATCHERS:
            raise TooManyWatchersError(f"{MAX_WATCHERS} watches are open, as many as this control serves")
        if sum(session.node == node for session in self._sessions) >= MAX_WATCHERS_PER_NODE:
            raise TooManyWatchersError(f"node {node} has {MAX_WATCHERS_PER_NODE} open watches; close one first")
        missed = self._missed(instance, revision, content)
        first = [self._whole()] if missed is None else missed or [self.heartbeat()]  # before there is a session to leak
        session = Session(node, on_overflow)
        self._sessions.add(session)
        self._status(node).watching += 1
        for at, line in first:
            session.offer(at, line)
        return session

    def _missed(self, instance: str | None, revision: int | None, content: str) -> list[tuple[int, bytes]] | None:
        """What an agent is to be sent that holds this content since this revision; None: a snapshot.

        A revision alone proves nothing: a store that was restored from a backup counts the same revisions again. An
        agent that sends no digest is of a version that does not know of it, and gets a snapshot.
        """
        if instance != self.instance or revision is None or not content or revision > self.revision:
            return None
        if content == self._digest:
            return []  # also after a restart: nothing that agents see was changed meanwhile
        if revision < self._oldest[0]:
            return None
        held = self._oldest[1]
        missed: list[tuple[int, bytes]] = []
        for item in self._history:
            if item.revision <= revision:
                held = item.digest
            else:
                missed.append((item.revision, item.line))
        return missed if content == held and len(missed) <= MAX_RESUMED else None

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
        return self.revision, self._line(self.revision)

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
            self._snapshot = self.revision, self._line(self.revision, self._encoded.values(), snapshot=True)
        return self._snapshot

    def _remember(self, item: Remembered) -> None:
        self._history.append(item)
        self._history_bytes += len(item.line)
        while len(self._history) > HISTORY or self._history_bytes > MAX_HISTORY_BYTES:
            dropped = self._history.popleft()
            self._oldest = dropped.revision, dropped.digest
            self._history_bytes -= len(dropped.line)

    def _drop_removed_nodes(self) -> None:
        present = {node.name for node in self._catalogue.of(nodes.KIND)}
        for session in list(self._sessions):
            if session.node not in present:
                session.close()
        for name in [n for n, s in self._statuses.items() if n not in present and not s.watching]:
            del self._statuses[name]

    def _line(self, revision: int, changes: Iterable[bytes] = (), *, snapshot: bool = False) -> bytes:
        line = write_line(self.instance, revision, changes, snapshot=snapshot)
        if len(line) > MAX_BATCH_BYTES:
            raise StoreError(f"a batch of {len(line)} bytes; agents read at most {MAX_BATCH_BYTES}")
        return line


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What the registry holds now, projected, compared with what agents were sent, and encoded."""

    catalogue: Catalogue
    objects: Objects
    line: bytes
    """The difference; empty: there is none."""
    digest: str


def difference(before: Objects, after: Objects) -> tuple[Change, ...]:
    """What turns one into the other: new and changed objects, then those that are gone."""
    changes = [
        Change(kind=kind, uid=uid, value=to_json(value))
        for (kind, uid), value in after.items()
        if before.get((kind, uid)) != value
    ]
    changes += [Change(kind=kind, uid=uid) for kind, uid in before if (kind, uid) not in after]
    return tuple(changes)


def _instance(store_instance: str, mesh: Mesh) -> str:
    """The store, and how its resources become objects: with another mesh configuration or projection, the same revision
    is another content. A restart is not another instance; what makes that safe is the digest (``Hub.open``)."""
    about = json.dumps([PROJECTION_VERSION, mesh.trust_domain, mesh.domain, mesh.cluster, mesh.roots]).encode()
    return f"{store_instance}-{hashlib.sha256(about).hexdigest()[:12]}"
