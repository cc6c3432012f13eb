"""The embedded store: one SQLite file in WAL mode, rows only ever appended (until compaction).

The row id of ``commits`` *is* the revision (AUTOINCREMENT: never used twice). Each write of a key is a row that names
the revision it replaces; ``UNIQUE (key, prev_revision)`` lets only one writer replace it, so compare-and-swap is the
database's job, and the only database error that means Conflict. Commits are durable (synchronous=FULL) before
``transact`` returns.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from control.store.base import (
    KEY_END,
    Check,
    Clock,
    Commit,
    Compacted,
    Conflict,
    Delete,
    Event,
    KeyValue,
    Lease,
    LeaseNotFoundError,
    Operation,
    Put,
    Range,
    UnavailableError,
    check_key,
    check_operations,
)
from control.store.following import CommitSignal, FollowingWatch

SCHEMA_VERSION = 1
BUSY_TIMEOUT_SECONDS = 5.0
_SCHEMA = f"""
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE commits (revision INTEGER PRIMARY KEY AUTOINCREMENT);
CREATE TABLE rows (
    id INTEGER PRIMARY KEY,
    revision INTEGER NOT NULL,
    key TEXT NOT NULL,
    prev_revision INTEGER NOT NULL,
    create_revision INTEGER NOT NULL,
    version INTEGER NOT NULL,
    lease INTEGER NOT NULL,
    value BLOB, -- NULL: deleted
    UNIQUE (key, prev_revision)
);
CREATE INDEX rows_by_revision ON rows (revision);
CREATE TABLE leases (id INTEGER PRIMARY KEY AUTOINCREMENT, ttl REAL NOT NULL, expires REAL NOT NULL);
PRAGMA user_version = {SCHEMA_VERSION};
"""
_COLUMNS = "key, value, create_revision, revision, version, lease"
# With one max() SQLite takes the other columns from the row that has it (sqlite.org/lang_select.html, "bare columns").
_RANGE = """
SELECT key, value, create_revision, MAX(revision), version, lease FROM rows
WHERE key >= ? AND key < ? AND revision <= ? GROUP BY key HAVING value IS NOT NULL ORDER BY key
"""
_LATEST = f"SELECT {_COLUMNS} FROM rows WHERE key = ? ORDER BY revision DESC LIMIT 1"
_LOG = f"""
SELECT {_COLUMNS} FROM rows WHERE revision > ? AND revision <= ? AND key >= ? AND key < ? ORDER BY revision, id
"""
_LOG_END = "SELECT MAX(revision) FROM (SELECT revision FROM commits WHERE revision > ? ORDER BY revision LIMIT ?)"
_FORGET = """
DELETE FROM rows WHERE revision <= ?1 AND (
    value IS NULL OR EXISTS (
        SELECT 1 FROM rows later
        WHERE later.key = rows.key AND later.revision > rows.revision AND later.revision <= ?1))
"""


class SqliteStore:
    """``base.Store`` in one file. One process at a time; any number of threads."""

    def __init__(self, path: Path, clock: Clock) -> None:
        """Open or create; UnavailableError says why it cannot."""
        self._clock = clock
        self._lock = threading.RLock()
        try:
            self._db = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_SECONDS
            )
        except sqlite3.Error as error:
            raise UnavailableError(f"{path}: {error}") from error
        try:
            self._open(path)
        except sqlite3.Error as error:
            self._db.close()
            raise UnavailableError(f"{path}: {error}; is it a database of this service?") from error
        except UnavailableError:
            self._db.close()
            raise
        self._committed = CommitSignal(self.revision)

    def _open(self, path: Path) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if found == 0:
            self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA}")
            self._db.execute("INSERT INTO meta VALUES ('instance', ?), ('compacted', '0')", (uuid.uuid4().hex,))
            self._db.execute("COMMIT")
        elif found != SCHEMA_VERSION:
            raise UnavailableError(f"{path}: schema version {found}; this release reads version {SCHEMA_VERSION}")
        self._instance = self._meta("instance")
        self._compacted = int(self._meta("compacted"))
        # Nobody could keep a lease alive while the store was down: each gets its full time again, as in etcd.
        self._db.execute("UPDATE leases SET expires = ? + ttl", (self._clock(),))

    def _meta(self, name: str) -> str:
        return str(self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()[0])

    @property
    def instance(self) -> str:
        return self._instance

    @property
    def revision(self) -> int:
        with self._reading():
            row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'commits'").fetchone()
            return int(row[0]) if row else 0

    def get(self, key: str) -> KeyValue | None:
        check_key(key)
        with self._reading():
            return self._latest(key)[0]

    def range(self, prefix: str, revision: int | None = None) -> Range:
        with self._reading():
            newest = self.revision
            at = newest if revision is None else min(revision, newest)
            if at < self._compacted:
                raise Compacted(self._compacted)
            rows = self._db.execute(_RANGE, (prefix, prefix + KEY_END, at)).fetchall()
            return Range(revision=at, items=tuple(_key_value(row) for row in rows))

    def transact(self, operations: Sequence[Operation]) -> int:
        check_operations(operations)
        with self._writing():
            for operation in operations:
                if isinstance(operation, Check):
                    self._compare(operation, self._latest(operation.key)[0])
            return self._commit([o for o in operations if not isinstance(o, Check)])

    def put(self, key: str, value: bytes, *, expect: int | None = None, lease: int = 0) -> int:
        return self.transact([Put(key=key, value=value, expect=expect, lease=lease)])

    def delete(self, key: str, *, expect: int | None = None) -> int:
        return self.transact([Delete(key=key, expect=expect)])

    def watch(self, prefix: str, after: int) -> FollowingWatch:
        with self._lock:
            if after < self._compacted:
                raise Compacted(self._compacted)
            return FollowingWatch(self._committed, self._log, prefix, after)

    def compact(self, revision: int) -> None:
        with self._writing():
            target = max(self._compacted, min(revision, self.revision))
            self._db.execute(_FORGET, (target,))
            self._db.execute("DELETE FROM commits WHERE revision <= ?", (target,))
            self._db.execute("UPDATE meta SET value = ? WHERE name = 'compacted'", (str(target),))
        self._compacted = target

    def grant(self, ttl: float) -> Lease:
        with self._writing():
            expires = self._clock() + ttl
            cursor = self._db.execute("INSERT INTO leases (ttl, expires) VALUES (?, ?)", (ttl, expires))
            return Lease(id=int(cursor.lastrowid or 0), ttl=ttl, expires=expires)

    def keep_alive(self, lease: int) -> Lease:
        with self._writing():
            row = self._db.execute("SELECT ttl FROM leases WHERE id = ?", (lease,)).fetchone()
            if row is None:
                raise LeaseNotFoundError(f"there is no lease {lease}")
            expires = self._clock() + float(row[0])
            self._db.execute("UPDATE leases SET expires = ? WHERE id = ?", (expires, lease))
            return Lease(id=lease, ttl=float(row[0]), expires=expires)

    def revoke(self, lease: int) -> int:
        with self._writing():
            if self._db.execute("DELETE FROM leases WHERE id = ?", (lease,)).rowcount == 0:
                raise LeaseNotFoundError(f"there is no lease {lease}")
            held = self._db.execute(_RANGE, ("", KEY_END, self.revision)).fetchall()
            return self._commit([Delete(key=item.key) for item in map(_key_value, held) if item.lease == lease])

    def expire(self) -> int:
        with self._reading():
            over = self._db.execute("SELECT id FROM leases WHERE expires <= ?", (self._clock(),)).fetchall()
        ended = 0
        for (lease,) in over:
            with contextlib.suppress(LeaseNotFoundError):
                self.revoke(lease)
                ended += 1
        return ended

    def close(self) -> None:
        self._committed.close()
        with self._lock:
            self._db.close()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                raise UnavailableError(f"the database failed: {error}") from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction: committed at the end, rolled back on any exception; watchers are told after it is
        durable."""
        with self._reading():
            before = self.revision
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            after = self.revision
        if after > before:
            self._committed.notify(after)

    def _latest(self, key: str) -> tuple[KeyValue | None, int]:
        """The key now, and the revision of its newest row (a deletion is one too); 0: there is none."""
        row = self._db.execute(_LATEST, (key,)).fetchone()
        if row is None:
            return None, 0
        return (None if row[1] is None else _key_value(row)), int(row[3])

    def _compare(self, operation: Operation, current: KeyValue | None) -> None:
        found = current.mod_revision if current else 0
        if operation.expect is not None and found != operation.expect:
            raise Conflict(operation.key, operation.expect, found)

    def _commit(self, operations: Sequence[Put | Delete]) -> int:
        revision = 0
        for operation in operations:
            current, newest = self._latest(operation.key)
            self._compare(operation, current)
            if isinstance(operation, Delete) and current is None:
                continue
            if isinstance(operation, Put) and operation.lease:
                self._check_lease(operation)
            if not revision:
                revision = int(self._db.execute("INSERT INTO commits DEFAULT VALUES").lastrowid or 0)
            self._append(operation, current, newest, revision)
        return revision or self.revision

    def _check_lease(self, put: Put) -> None:
        if self._db.execute("SELECT 1 FROM leases WHERE id = ?", (put.lease,)).fetchone() is None:
            raise LeaseNotFoundError(f"{put.key}: there is no lease {put.lease}")

    def _append(self, operation: Put | Delete, current: KeyValue | None, newest: int, revision: int) -> None:
        value = operation.value if isinstance(operation, Put) else None
        lease = operation.lease if isinstance(operation, Put) else 0
        created = current.create_revision if current else revision
        version = current.version + 1 if current else 1
        try:
            self._db.execute(
                "INSERT INTO rows (revision, key, prev_revision, create_revision, version, lease, value)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (revision, operation.key, newest, created, version, lease, value),
            )
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_CONSTRAINT_UNIQUE:
                raise
            found = self._latest(operation.key)[0]
            raise Conflict(operation.key, newest, found.mod_revision if found else 0) from error

    def _log(self, prefix: str, after: int, limit: int) -> tuple[int, Sequence[Commit]]:
        with self._reading():
            if after < self._compacted:
                raise Compacted(self._compacted)
            end = self._db.execute(_LOG_END, (after, limit)).fetchone()[0]
            if end is None:
                return after, ()
            rows = self._db.execute(_LOG, (after, end, prefix, prefix + KEY_END)).fetchall()
        by_revision: dict[int, list[Event]] = {}
        for row in rows:
            current = None if row[1] is None else _key_value(row)
            by_revision.setdefault(int(row[3]), []).append(Event(key=row[0], current=current))
        return int(end), [Commit(revision=r, events=tuple(events)) for r, events in by_revision.items()]


def _key_value(row: tuple[Any, ...]) -> KeyValue:
    key, value, created, modified, version, lease = row
    return KeyValue(key=key, value=value, create_revision=created, mod_revision=modified, version=version, lease=lease)
