"""A batch of state for the workers, cut into messages that each fit one turn of a loop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Final

from control.wire.watch import Batch, Change
from nodeagent.channel import StateBatch, pack

PART_BYTES: Final = 64 * 1024
"""A batch goes out in parts of about so many bytes of objects: a worker reads each in one turn of its loop."""
PART_CHANGES: Final = 256


def parts(head: Batch, changes: Iterable[Change]) -> Iterator[bytes]:
    """The batch of these changes as packed messages, each small enough to be read in one turn of a loop."""
    waiting = iter(changes)
    part = _next_part(waiting)
    more = True
    while more:
        following = _next_part(waiting) if part else ()
        more = bool(following)
        yield pack(StateBatch(batch=replace(head, changes=part), more=more))
        part = following


def _next_part(changes: Iterator[Change]) -> tuple[Change, ...]:
    part: list[Change] = []
    size = 0
    for change in islice(changes, PART_CHANGES):
        part.append(change)
        size += len(change.value or b"")
        if size >= PART_BYTES:
            break
    return tuple(part)
