"""Everything that control sent, as it was sent: enough to write to disk and to hand to a worker that starts late.

Objects are kept encoded. A kind or a field that this agent does not know survives, an object that cannot be read
reaches every reader, so that each refuses it in the same way, and whether an object changed is a comparison of bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from control.codec.content import Content
from control.wire.watch import Batch, Change
from nodeagent.steps import Steps, at_once

STEP_CHANGES = 256
"""Objects that one step looks at."""
AT_ONCE = 2048
"""A batch of at most so many objects is written in place, in one step; a larger one into a copy that takes its
place."""

Key = tuple[str, str]
Held = list[tuple[Key, bytes]]


class Mirror:
    """The objects of the last applied batch and its position."""

    def __init__(self) -> None:
        self._objects: dict[Key, bytes] = {}
        self._content = Content()
        self._instance = ""
        self._revision = 0
        self.loaded = False
        """Whether any state is held; false means that nothing is known, not that the mesh is empty."""

    @property
    def revision(self) -> int:
        """The revision held; 0 before the first batch."""
        return self._revision

    @property
    def instance(self) -> str:
        """The history that the revision counts in."""
        return self._instance

    def compare(self, batch: Batch) -> Steps[Batch]:
        """The part of a batch that differs from what is held, in steps. A snapshot becomes a delta, unless it is the
        first."""
        said: dict[Key, bytes | None] = {}
        for number, change in enumerate(batch.changes, 1):
            said[change.kind, change.uid] = change.value  # the last word counts
            if number % STEP_CHANGES == 0:
                yield
        changes: list[Change] = []
        for number, (key, value) in enumerate(said.items(), 1):
            if self._objects.get(key) != value:
                changes.append(Change(kind=key[0], uid=key[1], value=value))
            if number % STEP_CHANGES == 0:
                yield
        if batch.snapshot:
            for number, key in enumerate(self._objects, 1):
                if key not in said:
                    changes.append(Change(kind=key[0], uid=key[1]))
                if number % STEP_CHANGES == 0:
                    yield
        return Batch(
            instance=batch.instance, revision=batch.revision, snapshot=batch.snapshot and not self.loaded,
            changes=tuple(changes),
        )  # fmt: skip

    def take(self, batch: Batch) -> Steps[None]:
        """Keep what ``compare`` returned, in steps. Readers see all of it or nothing."""
        objects = self._objects if len(batch.changes) <= AT_ONCE else self._objects.copy()
        for number, change in enumerate(batch.changes, 1):
            if change.value is None:
                objects.pop((change.kind, change.uid), None)
            else:
                objects[change.kind, change.uid] = change.value
            if objects is not self._objects and number % STEP_CHANGES == 0:
                yield
        self._objects = objects
        self._instance, self._revision = batch.instance, batch.revision
        self.loaded = True
        for number, change in enumerate(batch.changes, 1):
            self._content.put(change.kind, change.uid, change.value)
            if number % STEP_CHANGES == 0:
                yield

    def apply(self, batch: Batch) -> Batch:
        """Compare and keep at once; the part that differs from what was held."""
        news = at_once(self.compare(batch))
        at_once(self.take(news))
        return news

    def digest(self) -> Steps[str]:
        """The digest of all that is held, in steps; what ``control.codec.content`` makes of it."""
        yield from self._content.settle()
        return self._content.digest()

    def held(self) -> Held:
        """Every object, encoded."""
        return list(self._objects.items())

    def snapshot(self) -> Batch:
        """All of it as one batch."""
        return Batch(
            instance=self._instance, revision=self._revision, snapshot=True, changes=tuple(changes_of(self.held()))
        )

    def counts(self) -> dict[str, int]:
        """How many objects of each kind are held."""
        result: dict[str, int] = {}
        for kind, _ in self._objects:
            result[kind] = result.get(kind, 0) + 1
        return result


def changes_of(held: Iterable[tuple[Key, bytes]]) -> Iterator[Change]:
    """The objects as changes of a snapshot."""
    return (Change(kind=kind, uid=uid, value=value) for (kind, uid), value in held)
