"""The mesh as this node knows it: from disk at first, then from the watch; handed to the workers, kept on disk."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from control.wire.watch import Batch, Change
from nodeagent.client.follow import Follower, UnusableBatchError
from nodeagent.client.mirror import AT_ONCE, Key, Mirror, changes_of
from nodeagent.client.session import Position, Session
from nodeagent.client.statefile import StateDirectory
from nodeagent.client.transport import Transport
from nodeagent.collector import Collector
from nodeagent.slices import in_slices
from nodeagent.state.intake import Intake, OutOfOrderError
from nodeagent.state.targets import Applied
from nodeagent.state.view import NodeState
from nodeagent.steps import Steps, at_once

SAVE_SECONDS = 2.0
"""State is written to disk at most this often: a burst of changes is one append."""
MAX_PENDING = 4096
"""Objects that wait to be appended; more, and all of the state is written anew."""

logger = logging.getLogger(__name__)


class Discovery:
    """The manager's read model and its copy on disk. ``on_applied`` is called after each batch, with the part of the
    batch that changed anything."""

    def __init__(self, directory: StateDirectory, on_applied: Callable[[Batch, Applied], None]) -> None:
        self.mirror = Mirror()
        self.state = NodeState()
        self.rejected: tuple[str, ...] = ()
        """What of the last batch that had any could not be read; each such item counts as not received."""
        self.missing: tuple[str, ...] = ()
        """What the state refers to and was never sent; what it concerns is denied until a snapshot brings it."""
        self.save_error = ""
        """Why the state could not be written last time; empty if it could."""
        self._directory = directory
        self._on_applied = on_applied
        self._unsaved = asyncio.Event()
        self._pending: dict[Key, Change] = {}
        """What changed since the state was saved."""
        self._snapshot_due = False
        """Whether ``_pending`` does not hold all of it."""
        self._done: Intake | None = None
        self._collector = Collector()
        self._tasks: set[asyncio.Task[None]] = set()

    def restore(self) -> Position | None:
        """Take in what was saved last; where the watch can resume (None: it must begin with a snapshot)."""
        batch = self._directory.load_discovery()
        if batch is None:
            return None
        at_once(self._taking(batch))
        self._unsaved.clear()
        self._pending.clear()
        logger.info("going on with the state of revision %d from disk", batch.revision)
        if self.missing:
            logger.error("the state on disk lacks %s; asking control for all of it", ", ".join(self.missing))
            return None
        return Position(batch.instance, batch.revision)

    def follower(self, session: Session, transport: Callable[[], Awaitable[Transport]]) -> Follower:
        """Who drives the watch that feeds this."""
        return Follower(session, transport, self.take, lambda: self.missing, self.content)

    async def take(self, batch: Batch) -> None:
        """Apply a batch of the watch, a slice in each turn of the loop. Raise UnusableBatchError, and change nothing,
        if it cannot follow. One at a time: the next one after this has returned."""
        await in_slices(self._taking(batch))
        done, self._done = self._done, None
        if done is not None:
            task = asyncio.get_running_loop().create_task(in_slices(done.dismantle()), name="free-former-state")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def content(self) -> str:
        """The digest of all that control sent, by which it can tell what is held here."""
        return await in_slices(self.mirror.digest())

    def _taking(self, batch: Batch) -> Steps[None]:
        state = self.state
        if not (batch.snapshot or batch.changes) and (batch.revision, batch.instance) == (
            state.revision,
            state.instance,
        ):
            return  # a heartbeat
        moved = batch.instance != state.instance
        try:
            state.check_order(batch)
            first = not state.ready
            if len(batch.changes) > AT_ONCE:
                self._collector.rest()
            news = yield from self.mirror.compare(batch)
            intake = Intake(state, news, compared=True)
        except OutOfOrderError as error:
            raise UnusableBatchError(str(error)) from error
        yield from intake.read(news.changes)
        yield from self.mirror.take(news)
        applied = yield from intake.commit()
        self._collector.applied(len(news.changes), first=first)
        if applied.rejected or (batch.snapshot and not state.tables.unreadable):
            self.rejected = applied.rejected
        for item in applied.rejected:
            logger.error("revision %d: %s; what it names is denied", batch.revision, item)
        self.missing = state.missing()
        self._note(news, moved=moved)
        self._done = intake
        self._on_applied(news, applied)

    def _note(self, news: Batch, *, moved: bool) -> None:
        """Remember to save it. A revision alone is not worth a write: to resume from an older one costs nothing."""
        if len(self._pending) + len(news.changes) > MAX_PENDING:
            self._snapshot_due = True
            self._pending.clear()
        else:
            self._pending.update(((change.kind, change.uid), change) for change in news.changes)
        if news.changes or moved:
            self._unsaved.set()

    async def keep_saved(self) -> None:
        """Write the state to disk whenever it changed; until cancelled. A full disk stops nothing but this."""
        while True:
            await self._unsaved.wait()
            await self.save()
            await asyncio.sleep(SAVE_SECONDS)

    async def save(self) -> None:
        """Write to disk what is not written yet: the changes behind the file, or all of it anew where that is due."""
        if not self._unsaved.is_set() or not self.mirror.loaded:
            return
        self._unsaved.clear()
        pending, self._pending = self._pending, {}
        anew, self._snapshot_due = self._snapshot_due or self._directory.wants_snapshot, False
        head = Batch(instance=self.mirror.instance, revision=self.mirror.revision, snapshot=anew)
        try:
            if anew:
                held = self.mirror.held()
                await asyncio.to_thread(self._directory.save_discovery, head, changes_of(held))
            else:
                delta = replace(head, changes=tuple(pending.values()))
                await asyncio.to_thread(self._directory.append_discovery, delta)
        except OSError as error:
            self._snapshot_due = True
            self._unsaved.set()
            if not self.save_error:
                logger.error("the state cannot be written to disk: %s; a restart would lose it", error)
            self.save_error = str(error)
        else:
            self.save_error = ""
