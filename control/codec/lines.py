"""A ``Batch`` as one line of NDJSON, written from encoded objects and read in steps.

A snapshot of a large mesh is one line of many megabytes. To read it takes longer than an event loop may stand still, so
``read_line`` cuts the list of changes between two objects and reads a piece a step. A JSON text cannot contain the
separator inside a string (a quote is escaped there), and a cut inside of an object leaves a piece that is not complete,
which is then read with the rest in one step: a line of any writer is read correctly, ours without standing still.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable

import msgspec

from control.codec.values import DecodeError
from control.wire.watch import Batch, Change

PIECE_BYTES = 32 * 1024
"""About as much of a line is read in one step."""
_NULL = b"null"
_BEGIN = b'"changes":['
_END = b"]}"
_BETWEEN = b'},{"kind":"'


class EncodedChange(msgspec.Struct, frozen=True, gc=False):
    """A ``Change`` on the wire: the object stays the text that it is."""

    kind: str
    uid: str
    value: msgspec.Raw = msgspec.Raw(_NULL)


class EncodedBatch(msgspec.Struct, frozen=True):
    """A ``Batch`` on the wire."""

    instance: str
    revision: int
    snapshot: bool = False
    changes: tuple[EncodedChange, ...] = ()


_encoder = msgspec.json.Encoder()
_whole = msgspec.json.Decoder(EncodedBatch)
_piece = msgspec.json.Decoder(tuple[EncodedChange, ...])


def encoded(change: Change) -> EncodedChange:
    """The change as it is encoded."""
    return EncodedChange(change.kind, change.uid, msgspec.Raw(_NULL if change.value is None else change.value))


def decoded(changes: Iterable[EncodedChange]) -> tuple[Change, ...]:
    """The changes, with copies of their values: a slice would keep the whole line in memory."""
    values = ((change, bytes(change.value)) for change in changes)
    return tuple(
        Change(kind=change.kind, uid=change.uid, value=None if value == _NULL else value) for change, value in values
    )


def write_change(change: Change) -> bytes:
    """The change as it stands in a line."""
    return _encoder.encode(encoded(change))


def write_line(instance: str, revision: int, changes: Iterable[bytes] = (), *, snapshot: bool = False) -> bytes:
    """The line of a batch, with the line feed, from changes that ``write_change`` encoded."""
    head = _encoder.encode(EncodedBatch(instance, revision, snapshot))
    return b"".join((head[: -len(_END)], b",".join(changes), _END, b"\n"))


def read_line(line: bytes) -> Generator[None, None, Batch]:
    """Read a line of any writer, a piece a step. DecodeError if it is no batch."""
    start, stop = line.find(_BEGIN) + len(_BEGIN), len(line.rstrip()) - len(_END)
    if start < len(_BEGIN) or not line.startswith(_END, stop) or stop - start <= PIECE_BYTES:
        return read_whole(line)
    changes: list[Change] = []
    try:
        head = _whole.decode(line[:start] + _END)
        while start < stop:
            cut = line.find(_BETWEEN, min(start + PIECE_BYTES, stop), stop)
            end = stop if cut < 0 else cut + 1
            changes += decoded(_piece.decode(b"[" + line[start:end] + b"]"))
            start = end + 1
            yield
    except (msgspec.DecodeError, ValueError, RecursionError):
        return read_whole(line)
    return Batch(instance=head.instance, revision=head.revision, snapshot=head.snapshot, changes=tuple(changes))


def read_whole(line: bytes) -> Batch:
    """Read a line in one step. DecodeError if it is no batch."""
    try:
        found = _whole.decode(line)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise DecodeError(f"Batch: {error}") from error
    return Batch(
        instance=found.instance, revision=found.revision, snapshot=found.snapshot, changes=decoded(found.changes)
    )
