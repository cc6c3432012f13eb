"""Everything that control has told, as it was told: enough to write to disk and to hand to a worker that starts late.

Values are kept unread. A kind or a field that this agent does not know survives, and an object that cannot be read
reaches every reader, so that each refuses it in the same way.
"""

from __future__ import annotations

from typing import Any

from control.wire.watch import Batch, Change


class Mirror:
    """The objects of the last applied batch and its position."""

    def __init__(self) -> None:
        self._objects: dict[tuple[str, str], dict[str, Any]] = {}
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

    def apply(self, batch: Batch) -> None:
        """Take the batch in; it must have been checked to follow the last one."""
        if batch.snapshot:
            self._objects.clear()
        for change in batch.changes:
            if change.value is None:
                self._objects.pop((change.kind, change.uid), None)
            else:
                self._objects[change.kind, change.uid] = change.value
        self._instance, self._revision = batch.instance, batch.revision
        self.loaded = True

    def snapshot(self) -> Batch:
        """All of it as one batch."""
        return Batch(
            instance=self._instance,
            revision=self._revision,
            snapshot=True,
            changes=tuple(Change(kind=kind, uid=uid, value=value) for (kind, uid), value in self._objects.items()),
        )

    def counts(self) -> dict[str, int]:
        """How many objects of each kind are held."""
        result: dict[str, int] = {}
        for kind, _ in self._objects:
            result[kind] = result.get(kind, 0) + 1
        return result
