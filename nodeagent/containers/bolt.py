"""Reading a bolt database (bbolt; podman's before 4.8, containerd's): a copy-on-write tree of pages with one writer.

The format is that of bbolt's ``page.go``, ``node.go``, ``bucket.go`` and ``db.go``. Nothing of the file is trusted to
make sense: what does not is a StateError.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from nodeagent.containers.facts import StateError, check_owner

MAX_BYTES: Final = 256 * 1024 * 1024
MAX_PAGES: Final = 65536
"""That one look at a bucket reads: a damaged file may lead in circles."""
MAX_TRIES: Final = 5
"""That a database is read while somebody writes to it."""
MAX_PAGE_BYTES: Final = 65536
_MAGIC: Final = 0xED0CDAED
_PAGE = struct.Struct("<QHHI")
_META = struct.Struct("<IIIIQQQQQQ")
_BRANCH = struct.Struct("<IIQ")
_LEAF = struct.Struct("<IIII")
_BUCKET = struct.Struct("<QQ")
_BRANCH_PAGE: Final = 1
_LEAF_PAGE: Final = 2
_IS_BUCKET: Final = 1
_CHECKED: Final = _META.size - 8
"""Bytes of a meta that its checksum is of."""


class _Meta(NamedTuple):
    """One of the two pages that say where the tree begins, and of which transaction it is."""

    page_size: int
    root: int
    transaction: int


def read_bolt(path: Path) -> bytes:
    """A snapshot, taken under the lock that bolt itself uses. FileNotFoundError; BlockingIOError while somebody writes;
    StateError if it is not to be believed.
    """
    with path.open("rb") as stream:
        check_owner(path, os.fstat(stream.fileno()))
        fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise StateError(f"{path}: larger than {MAX_BYTES} bytes")
    return data


def read_beside_writer(path: Path) -> bytes:
    """A snapshot of a database whose writer keeps the lock for itself as long as it runs. FileNotFoundError;
    BlockingIOError if it was written to each time; StateError if it is not to be believed.

    Pages of a transaction's tree are written over by the one after the next at the earliest (they are free from the
    next on), which begins when the next has been committed. So if the last transaction that was committed is the same
    after reading as before, nothing of its tree has been written to.
    """
    with path.open("rb") as stream:
        check_owner(path, os.fstat(stream.fileno()))
        for _ in range(MAX_TRIES):
            before = _newest(stream)
            stream.seek(0)
            data = stream.read(MAX_BYTES + 1)
            if len(data) > MAX_BYTES:
                raise StateError(f"{path}: larger than {MAX_BYTES} bytes")
            if _newest(stream) == before:
                return data
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def last_change(path: Path) -> tuple[int, int]:
    """The file, and the last transaction that was committed to it (times of files are coarse). FileNotFoundError;
    StateError.
    """
    with path.open("rb") as stream:
        status = os.fstat(stream.fileno())
        check_owner(path, status)
        return status.st_ino, _newest(stream).transaction


def _newest(stream: BinaryIO) -> _Meta:
    return _meta(os.pread(stream.fileno(), 2 * MAX_PAGE_BYTES, 0))


def _meta(data: bytes) -> _Meta:
    """The last that was written whole. StateError if this is no bolt database."""
    try:
        size = int(_META.unpack_from(data, _PAGE.size)[2])
        found = [(place + _PAGE.size, _META.unpack_from(data, place + _PAGE.size)) for place in (0, size)]
    except struct.error as error:
        raise StateError("not a bolt database, or cut short") from error
    sound = [
        _Meta(size, fields[4], fields[8])
        for place, fields in found
        if fields[0] == _MAGIC and fields[2] == size and fields[9] == _checksum(data[place : place + _CHECKED])
    ]
    if not sound:
        raise StateError("not a bolt database")
    return max(sound, key=lambda meta: meta.transaction)


def _checksum(data: bytes) -> int:
    """FNV-1a, 64 bits."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


class Bucket:
    """Keys and values, and buckets in it, of one snapshot."""

    def __init__(self, data: bytes, page_size: int, page: int, inline: bytes | None = None) -> None:
        self._data = data
        self._page_size = page_size
        self._page = page
        self._inline = inline

    @classmethod
    def root(cls, data: bytes) -> Bucket:
        """The outermost; StateError if this is no bolt database."""
        meta = _meta(data)
        return cls(data, meta.page_size, meta.root)

    def bucket(self, key: bytes) -> Bucket | None:
        """A bucket in this one."""
        for name, value, is_bucket in self._entries():
            if name == key and is_bucket:
                return self._nested(value)
        return None

    def buckets(self) -> Iterator[tuple[bytes, Bucket]]:
        """All that are in this one."""
        for name, value, is_bucket in self._entries():
            if is_bucket:
                yield name, self._nested(value)

    def values(self) -> Iterator[tuple[bytes, bytes]]:
        """All keys that are no buckets."""
        return ((name, value) for name, value, is_bucket in self._entries() if not is_bucket)

    def get(self, key: bytes) -> bytes | None:
        """The value of a key."""
        return next((value for name, value, is_bucket in self._entries() if name == key and not is_bucket), None)

    def _nested(self, value: bytes) -> Bucket:
        try:
            page = int(_BUCKET.unpack_from(value)[0])
        except struct.error as error:
            raise StateError("a bolt database with a bucket that is cut short") from error
        # a small bucket has its only page behind its header
        return Bucket(self._data, self._page_size, page, None if page else value[_BUCKET.size :])

    def _entries(self) -> Iterator[tuple[bytes, bytes, bool]]:
        todo = [self._page]
        looked = 0
        try:
            while todo:
                if (looked := looked + 1) > MAX_PAGES:
                    raise StateError(f"a bolt database with more than {MAX_PAGES} pages in one bucket")
                data, offset = self._data, todo.pop() * self._page_size
                if self._inline is not None:
                    data, offset = self._inline, 0
                if offset > len(data):
                    raise StateError("a bolt database that is cut short")
                _, flags, count, _ = _PAGE.unpack_from(data, offset)
                if flags & _BRANCH_PAGE:
                    todo += _children(data, offset + _PAGE.size, count)
                elif flags & _LEAF_PAGE:
                    yield from _leaves(data, offset + _PAGE.size, count)
                else:
                    raise StateError("a bolt database with a page of an unknown kind")
        except struct.error as error:
            raise StateError("a bolt database that is cut short") from error


def _children(data: bytes, offset: int, count: int) -> list[int]:
    return [int(_BRANCH.unpack_from(data, offset + number * _BRANCH.size)[2]) for number in range(count)]


def _leaves(data: bytes, offset: int, count: int) -> Iterator[tuple[bytes, bytes, bool]]:
    for number in range(count):
        place = offset + number * _LEAF.size
        flags, position, key_size, value_size = _LEAF.unpack_from(data, place)
        start = place + position
        middle = start + key_size
        yield data[start:middle], data[middle : middle + value_size], bool(flags & _IS_BUCKET)
