"""Keeps the garbage collector from walking over the mesh.

A full collection looks at every object that is alive: with 20,000 workloads it holds the loop for 50 to 100
milliseconds, and it runs whenever a quarter as many objects came to live long. Objects of the wire are in no cycle, so
the collector is not needed for them. It rests while a large batch is applied, and what lives then is put out of its
sight (``gc.freeze``). The price: of the other objects that live at that moment, those that end as part of a cycle are
not freed. These are few, since it happens with the first snapshot, and then once for FROZEN_AT changed objects.
"""

from __future__ import annotations

import gc
from typing import Final

FROZEN_AT: Final = 10_000
"""Changed objects that the collector looks at before they are put out of its sight."""


class Collector:
    """The collector of this process, from the point of view of whoever applies batches."""

    def __init__(self) -> None:
        self._seen = 0
        self._resting = False

    def rest(self) -> None:
        """A large batch comes: do not collect before ``applied``."""
        if not self._resting and gc.isenabled():
            self._resting = True
            gc.disable()

    def applied(self, objects: int, *, first: bool = False) -> None:
        """A batch with so many changed objects is in force; ``first``: nothing was before."""
        self._seen += objects
        if first or self._seen >= FROZEN_AT:
            self._seen = 0
            gc.freeze()
        if self._resting:
            self._resting = False
            gc.enable()
