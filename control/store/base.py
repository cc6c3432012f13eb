"""What a store promises, whichever keeps the bytes. ``tests/contract/test_store.py`` holds every implementation to it.

Every committed transaction gets the next *revision*, however many keys it writes; revisions are never used twice, not
even after compaction or a restart. All methods may be called from any thread and block briefly.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

MAX_KEY_BYTES = 512
MAX_VALUE_BYTES = 1024 * 1024
MAX_OPERATIONS = 10_000
"""Per transaction; a whole file of resources is one."""
MAX_COMMITS_PER_POLL = 512
KEY_END = "\x7f"
"""Greater than every character that a key may hold: ``[prefix, prefix + KEY_END)`` are the keys with that prefix."""

_KEY = re.compile(r"[!-~]+\Z")

Clock = Callable[[], float]
"""Seconds; only differences matter."""


class StoreError(Exception):
    """The store cannot do what was asked."""


class InvalidOperationError(StoreError):
    """The request itself breaks a rule (a bad key, too many operations, a key written twice): a defect of the
    caller."""


class UnavailableError(StoreError):
    """The medium failed (disk full, file gone, locked by another process); nothing was written."""


class Conflict(StoreError):  # noqa: N818 (the name that every such store gives it)
    """A compare-and-swap met another revision than expected; nothing was written."""

    def __init__(self, key: str, expected: int, found: int) -> None:
        super().__init__(f"{key}: expected revision {expected}, found {found}")
        self.key = key
        self.expected = expected
        self.found = found
        """The key's present mod revision; 0: it does not exist."""


class Compacted(StoreError):  # noqa: N818 (as above)
    """The history that was asked for is gone; read everything anew and watch from there."""

    def __init__(self, revision: int) -> None:
        super().__init__(f"history up to revision {revision} was compacted")
        self.revision = revision


class LeaseNotFoundError(StoreError):
    """The lease expired, was revoked, or never was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValue:
    """A key as of some revision."""

    key: str
    value: bytes
    create_revision: int
    """The revision that made the key (anew, if it was deleted before)."""
    mod_revision: int
    """The revision that wrote it last: what a compare-and-swap compares."""
    version: int
    """1 for a key just created, one more with each write."""
    lease: int = 0
    """The lease that the key dies with; 0: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """Write a key. ``expect``: the mod revision it must have (0: must not exist); None: whatever it is."""

    key: str
    value: bytes
    expect: int | None = None
    lease: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """Remove a key; to remove what does not exist is no error (unless ``expect`` says that it does)."""

    key: str
    expect: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Write nothing, but fail the transaction unless the key has this mod revision (0: does not exist)."""

    key: str
    expect: int


Operation = Put | Delete | Check


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One key changed; ``current`` is None when it was deleted."""

    key: str
    current: KeyValue | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """Everything (below the watched prefix) that one revision changed."""

    revision: int
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Keys in order, all as of ``revision``."""

    revision: int
    items: tuple[KeyValue, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Keys put under a lease are deleted, in one commit, when it expires."""

    id: int
    ttl: float
    """Seconds."""
    expires: float
    """On the store's clock."""


class Watch(Protocol):
    """Commits after a revision, in order, each once. Not for use by two threads at a time."""

    def poll(self, timeout: float) -> Sequence[Commit]:
        """Wait up to ``timeout`` seconds for commits; at most MAX_COMMITS_PER_POLL, empty after a time-out or
        ``close``.

        Raises Compacted if history was compacted past what was already delivered.
        """

    @property
    def revision(self) -> int:
        """Everything up to here was delivered (or lies outside the prefix)."""

    def close(self) -> None:
        """End it; a waiting ``poll`` returns at once."""


class Store(Protocol):
    """A revisioned key-value store."""

    @property
    def instance(self) -> str:
        """Identifies this history; made when the store is created, another one for every other store."""

    @property
    def revision(self) -> int:
        """The newest revision; 0 for a store never written to."""

    def get(self, key: str) -> KeyValue | None:
        """The key now, or None."""

    def range(self, prefix: str, revision: int | None = None) -> Range:
        """Every key with the prefix, now or as of an older revision (Compacted if that is too old)."""

    def transact(self, operations: Sequence[Operation]) -> int:
        """Do all or nothing; the revision after it. A transaction that changes nothing makes no revision."""

    def put(self, key: str, value: bytes, *, expect: int | None = None, lease: int = 0) -> int:
        """A transaction of one Put."""

    def delete(self, key: str, *, expect: int | None = None) -> int:
        """A transaction of one Delete."""

    def watch(self, prefix: str, after: int) -> Watch:
        """Follow commits with a revision greater than ``after``; Compacted if some of those are gone."""

    def compact(self, revision: int) -> None:
        """Forget what was overwritten or deleted at or before ``revision``."""

    def grant(self, ttl: float) -> Lease:
        """A new lease of ``ttl`` seconds."""

    def keep_alive(self, lease: int) -> Lease:
        """Give the lease its full time again; LeaseNotFoundError if it is over."""

    def revoke(self, lease: int) -> int:
        """End the lease and delete its keys in one commit; the revision after it."""

    def expire(self) -> int:
        """Revoke every lease whose time is over; how many. To be called regularly."""

    def close(self) -> None:
        """Release the medium; watches end."""


def check_operations(operations: Sequence[Operation]) -> None:
    """InvalidOperationError unless every key and value is allowed and no key is named twice."""
    if len(operations) > MAX_OPERATIONS:
        raise InvalidOperationError(
            f"a transaction of {len(operations)} operations; at most {MAX_OPERATIONS} are allowed"
        )
    seen: set[str] = set()
    for operation in operations:
        check_key(operation.key)
        if operation.key in seen:
            raise InvalidOperationError(f"{operation.key}: named twice in one transaction")
        seen.add(operation.key)
        if isinstance(operation, Put) and len(operation.value) > MAX_VALUE_BYTES:
            raise InvalidOperationError(
                f"{operation.key}: a value of {len(operation.value)} bytes; at most {MAX_VALUE_BYTES} are allowed"
            )


def check_key(key: str) -> None:
    """InvalidOperationError unless the key is printable ASCII without blanks, of bounded length."""
    if len(key) > MAX_KEY_BYTES or not _KEY.match(key):
        raise InvalidOperationError(
            f"{key[:80]!r} is not a key (1 to {MAX_KEY_BYTES} printable ASCII characters, no blanks)"
        )
