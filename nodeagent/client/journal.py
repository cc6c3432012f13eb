"""Discovery on disk: a snapshot, and behind it the deltas that came since, in one file.

The file begins with MAGIC. Each record is four bytes of length (big endian), 16 bytes of digest (BLAKE2b of what
follows), one byte that tells whether further records of the same batch follow, and a batch or a part of one as a line
of the watch.

What a power cut may leave: ``replace`` writes aside, calls fsync, renames, and calls fsync on the directory, so the
file is the former one or the new one. ``append`` calls fdatasync before the delta counts as saved; a record that was
not written whole, or whose digest does not fit, ends the file: it and what follows is cut off when the file is read. So
what is read is always a state that control sent, at worst an older one, from which the watch resumes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from pathlib import Path

from control.codec.lines import read_whole, write_change, write_line
from control.codec.values import DecodeError
from control.wire.watch import Batch, Change
from nodeagent.client.mirror import Key, changes_of

MAGIC = b"nodemesh discovery 2\n"
DIGEST_BYTES = 16
PART_CHANGES = 256
"""Objects of one record."""
MAX_FILE_BYTES = 1024 * 1024 * 1024
COMPACTED_AT_BYTES = 1024 * 1024
COMPACTED_AT_SHARE = 1.0
"""The file is written anew once the deltas are longer than this many bytes and than this share of the snapshot."""
_HEAD = 4 + DIGEST_BYTES
_LAST, _MORE = b"\0", b"\1"

logger = logging.getLogger(__name__)


class Journal:
    """The file of one state directory. ``write`` replaces a file by what an iterator gives, whole (see above)."""

    def __init__(self, path: Path, write: Callable[[Path, Iterable[bytes]], int]) -> None:
        self._path = path
        self._write = write
        self._snapshot_bytes = 0
        self._delta_bytes = 0
        self._whole = False

    @property
    def full(self) -> bool:
        """Whether the next delta is to be saved by ``replace``: there is no file to append to, or it grew too long."""
        share = max(COMPACTED_AT_BYTES, COMPACTED_AT_SHARE * self._snapshot_bytes)
        return not self._whole or self._delta_bytes > share

    def load(self) -> Batch | None:
        """The state that the file holds, as a snapshot; None if it holds none. OSError if it cannot be read."""
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as stream:
            content = stream.read(MAX_FILE_BYTES)
        objects: dict[Key, bytes] = {}
        head: Batch | None = None
        end = 0
        for batch, position in _batches(content):
            if batch.snapshot:
                objects.clear()
                self._snapshot_bytes = position
            elif head is None:
                break
            for change in batch.changes:
                if change.value is None:
                    objects.pop((change.kind, change.uid), None)
                else:
                    objects[change.kind, change.uid] = change.value
            head, end = batch, position
        if head is None:
            logger.error("%s holds no snapshot and is not used (control will be asked again)", self._path)
            return None
        if end < len(content):
            logger.error("%s: the last %d bytes are not whole and are cut off", self._path, len(content) - end)
            os.truncate(self._path, end)
        self._delta_bytes, self._whole = end - self._snapshot_bytes, True
        return Batch(
            instance=head.instance, revision=head.revision, snapshot=True, changes=tuple(changes_of(objects.items()))
        )

    def append(self, delta: Batch) -> None:
        """Save a delta. OSError if that fails; the file is then written anew by the next ``replace``."""
        whole, self._whole = self._whole, False  # a part of a record may stay behind
        if not whole:
            raise OSError("there is no whole file to append to")
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "wb") as stream:
            for record in _records(delta, delta.changes):
                stream.write(record)
                self._delta_bytes += len(record)
            stream.flush()
            os.fdatasync(stream.fileno())
        self._whole = True

    def replace(self, head: Batch, changes: Iterable[Change]) -> None:
        """Save a snapshot in place of everything. OSError if that fails; the former file stays."""
        self._whole = False
        self._snapshot_bytes = self._write(self._path, _file(head, changes))
        self._delta_bytes, self._whole = 0, True


def _file(head: Batch, changes: Iterable[Change]) -> Iterator[bytes]:
    yield MAGIC
    yield from _records(head, changes)


def _records(head: Batch, changes: Iterable[Change]) -> Iterator[bytes]:
    part: list[bytes] = []
    for change in changes:
        if len(part) == PART_CHANGES:
            yield _record(head, part, _MORE)
            part.clear()
        part.append(write_change(change))
    yield _record(head, part, _LAST)


def _record(head: Batch, part: list[bytes], more: bytes) -> bytes:
    body = more + write_line(head.instance, head.revision, part, snapshot=head.snapshot)
    return len(body).to_bytes(4, "big") + blake2b(body, digest_size=DIGEST_BYTES).digest() + body


def _batches(content: bytes) -> Iterator[tuple[Batch, int]]:
    """Every batch that is whole, and where it ends."""
    if not content.startswith(MAGIC):
        return
    changes: list[Change] = []
    position = len(MAGIC)
    while position + _HEAD < len(content):
        begin = position + _HEAD
        position = begin + int.from_bytes(content[position : position + 4], "big")
        body = content[begin:position]
        if (
            position > len(content)
            or not body
            or _digest(content, begin) != blake2b(body, digest_size=DIGEST_BYTES).digest()
        ):
            return
        try:
            batch = read_whole(body[1:])
        except DecodeError as error:
            logger.error("a record of the state on disk cannot be read: %s", error)
            return
        changes += batch.changes
        if body[:1] == _LAST:
            whole = tuple(changes)
            changes = []
            yield (
                Batch(instance=batch.instance, revision=batch.revision, snapshot=batch.snapshot, changes=whole),
                position,
            )


def _digest(content: bytes, begin: int) -> bytes:
    return content[begin - DIGEST_BYTES : begin]
