"""What the mesh is like, as this node knows it: from disk at first, then from the watch; handed to the workers, kept
on disk."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from control.wire.watch import Batch
from nodeagent.client.follow import UnusableBatchError
from nodeagent.client.mirror import Mirror
from nodeagent.client.session import Position
from nodeagent.client.statefile import StateDirectory
from nodeagent.state.targets import Applied
from nodeagent.state.view import NodeState, OutOfOrderError

SAVE_SECONDS = 2.0
"""State is written to disk at most this often: a burst of changes is one file."""

logger = logging.getLogger(__name__)


class Discovery:
    """The manager's read model and its copy on disk. ``on_applied`` hears of every batch, after it was taken in."""

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

    def restore(self) -> Position | None:
        """Take in what was saved last; where the watch can resume (None: it must begin with a snapshot)."""
        batch = self._directory.load_discovery()
        if batch is None:
            return None
        self.take(batch)
        self._unsaved.clear()
        logger.info("going on with the state of revision %d from disk", batch.revision)
        if self.missing:
            logger.error("the state on disk lacks %s; asking control for all of it", ", ".join(self.missing))
            return None
        return Position(batch.instance, batch.revision)

    def take(self, batch: Batch) -> None:
        """A batch from the watch; UnusableBatchError, and nothing changed, if it cannot follow."""
        news = batch.snapshot or bool(batch.changes)
        if not news and batch.revision == self.state.revision and batch.instance == self.state.instance:
            return  # a heartbeat
        try:
            applied = self.state.apply(batch)
        except OutOfOrderError as error:
            raise UnusableBatchError(str(error)) from error
        self.mirror.apply(batch)
        if applied.rejected or batch.snapshot:
            self.rejected = applied.rejected
        for item in applied.rejected:
            logger.error("revision %d: %s; what it names is denied", batch.revision, item)
        if news:  # a revision alone is not worth a file: resuming from an older one costs nothing
            self.missing = self.state.missing()
            self._unsaved.set()
        self._on_applied(batch, applied)

    async def keep_saved(self) -> None:
        """Write the state to disk whenever it changed; until cancelled. A full disk stops nothing but this."""
        while True:
            await self._unsaved.wait()
            await self.save()
            await asyncio.sleep(SAVE_SECONDS)

    async def save(self) -> None:
        """Write the state now, if it is not written yet."""
        if not self._unsaved.is_set() or not self.mirror.loaded:
            return
        self._unsaved.clear()
        snapshot = self.mirror.snapshot()
        try:
            await asyncio.to_thread(self._directory.save_discovery, snapshot)
        except OSError as error:
            self._unsaved.set()
            if not self.save_error:
                logger.error("the state cannot be written to disk: %s; a restart would lose it", error)
            self.save_error = str(error)
        else:
            self.save_error = ""
