"""Applies a batch in steps that are short, however large the batch is.

A loop that carries bytes runs a few steps, then serves its connections, then runs a few more. Readers see one revision
throughout: few changes are written into the tables in one step, many into a copy that then takes their place. Neither
the old state nor the new one is ever seen in part, so a workload is never seen with policies that have not arrived yet.

Order: batches are applied one at a time, in the order in which they arrived. A small change behind a large one waits
for what is left of the large one's steps and for nothing else: not for the disk, nor for the other workers, nor for the
former state to be freed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Protocol

from control.wire.discovery import DiscoveryObject
from control.wire.watch import Batch, Change
from nodeagent.state.accept import Acceptance, Key
from nodeagent.state.tables import Tables
from nodeagent.state.targets import Applied
from nodeagent.steps import Steps

STEP_OBJECTS = 16
"""Objects that one step reads or files: well below a millisecond."""
STEP_KEYS = 1024
"""Keys that one step looks at."""
MAX_UNKNOWN = 64
"""Values that are counted apart."""
AT_ONCE = 64
"""A batch of at most so many objects is written into the tables in force, in one step; a larger one into a copy."""


class OutOfOrderError(Exception):
    """A delta that does not follow what was applied: a defect of the sender. Ask for a snapshot."""


class Holder(Protocol):
    """What an ``Intake`` uses of the state that it applies a batch to."""

    unknown: Counter[str]

    @property
    def ready(self) -> bool:
        """Whether a snapshot was applied."""

    @property
    def tables(self) -> Tables:
        """What is in force."""

    def check_order(self, batch: Batch) -> None:
        """Raise OutOfOrderError if the batch cannot follow."""

    def switch(self, tables: Tables, batch: Batch, changed: Collection[Key]) -> None:
        """Answer from these tables from now on, at the batch's revision."""


class Intake:
    """One batch on its way into the state: ``read`` its changes, in one part or several, then ``commit``."""

    def __init__(self, state: Holder, batch: Batch, *, compared: bool = False) -> None:
        """Raise OutOfOrderError if the batch cannot follow; its changes are not looked at yet.

        ``compared``: somebody made the batch by comparing a snapshot with what this state holds. It follows then,
        whatever instance and revision it has.
        """
        if not (compared and state.ready):
            state.check_order(batch)
        self._state = state
        self._batch = batch
        self._accepted = Acceptance()
        self._former: Tables | None = None

    def read(self, changes: Iterable[Change]) -> Steps[None]:
        """Read changes of the batch, a few objects a step. Nothing is in force yet."""
        for number, change in enumerate(changes, 1):
            self._accepted.take(change)
            if number % STEP_OBJECTS == 0:
                yield

    def commit(self) -> Steps[Applied]:
        """Put the whole batch in force, in steps; readers see the former state until the last one."""
        updates = self._accepted.objects
        if self._batch.snapshot:
            for number, key in enumerate(list(self._state.tables.keys()), 1):
                updates.setdefault(key, None)
                if number % STEP_KEYS == 0:
                    yield
        if len(updates) <= AT_ONCE:
            tables = self._state.tables
            changed = {key: None for key, value in updates.items() if self._update(tables, key, value)}
        else:
            tables, changed = Tables(), dict[Key, None]()
            yield from self._state.tables.copy(tables)
            for number, (key, value) in enumerate(updates.items(), 1):
                if self._update(tables, key, value):
                    changed[key] = None
                if number % STEP_OBJECTS == 0:
                    yield
            tables.settle()
            self._former = self._state.tables
        for name, count in self._accepted.unknown.items():
            if name in self._state.unknown or len(self._state.unknown) < MAX_UNKNOWN:
                self._state.unknown[name] += count
        self._state.switch(tables, self._batch, changed)
        return Applied(changed.keys(), self._accepted.rejected, self._batch.snapshot)

    def dismantle(self) -> Steps[None]:
        """After ``commit``: free what nobody reads any more, in steps. To drop it all at once takes long."""
        updates = self._accepted.objects
        while updates:
            for _ in range(min(STEP_KEYS, len(updates))):
                updates.popitem()
            yield
        if self._former is not None:
            yield from self._former.dismantle()

    def _update(self, tables: Tables, key: Key, value: DiscoveryObject | None) -> bool:
        return tables.update(key, value, unreadable=key in self._accepted.unreadable)
