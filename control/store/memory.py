"""A store that forgets everything with its process: for tests and for ``control`` without a state directory."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence

from control.store.base import (
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
    check_key,
    check_operations,
)
from control.store.following import CommitSignal, FollowingWatch


class MemoryStore:
    """``base.Store`` in dictionaries: for each key its versions, and the list of commits."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._instance = uuid.uuid4().hex
        self._revision = 0
        self._compacted = 0
        self._history: dict[str, list[tuple[int, KeyValue | None]]] = {}
        self._commits: list[Commit] = []
        self._leases: dict[int, Lease] = {}
        self._last_lease = 0
        self._committed = CommitSignal(0)

    @property
    def instance(self) -> str:
        return self._instance

    @property
    def revision(self) -> int:
        with self._lock:
            return self._revision

    def get(self, key: str) -> KeyValue | None:
        check_key(key)
        with self._lock:
            return self._at(key, self._revision)

    def range(self, prefix: str, revision: int | None = None) -> Range:
        with self._lock:
            at = self._revision if revision is None else min(revision, self._revision)
            if at < self._compacted:
                raise Compacted(self._compacted)
            found = (self._at(key, at) for key in sorted(self._history) if key.startswith(prefix))
            return Range(revision=at, items=tuple(item for item in found if item is not None))

    def transact(self, operations: Sequence[Operation]) -> int:
        check_operations(operations)
        with self._lock:
            for operation in operations:
                self._compare(operation)
                if isinstance(operation, Put) and operation.lease and operation.lease not in self._leases:
                    raise LeaseNotFoundError(f"{operation.key}: there is no lease {operation.lease}")
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
        with self._lock:
            self._compacted = max(self._compacted, min(revision, self._revision))
            self._commits = [c for c in self._commits if c.revision > self._compacted]
            for key, versions in list(self._history.items()):
                newest = max((i for i, (r, _) in enumerate(versions) if r <= self._compacted), default=0)
                if versions[newest][0] <= self._compacted and versions[newest][1] is None:
                    newest += 1
                self._history[key] = versions[newest:]
                if not self._history[key]:
                    del self._history[key]

    def grant(self, ttl: float) -> Lease:
        with self._lock:
            self._last_lease += 1
            lease = Lease(id=self._last_lease, ttl=ttl, expires=self._clock() + ttl)
            self._leases[lease.id] = lease
            return lease

    def keep_alive(self, lease: int) -> Lease:
        with self._lock:
            held = self._leases.get(lease)
            if held is None:
                raise LeaseNotFoundError(f"there is no lease {lease}")
            self._leases[lease] = Lease(id=lease, ttl=held.ttl, expires=self._clock() + held.ttl)
            return self._leases[lease]

    def revoke(self, lease: int) -> int:
        with self._lock:
            if self._leases.pop(lease, None) is None:
                raise LeaseNotFoundError(f"there is no lease {lease}")
            present = (self._at(key, self._revision) for key in sorted(self._history))
            return self._commit([Delete(key=item.key) for item in present if item is not None and item.lease == lease])

    def expire(self) -> int:
        with self._lock:
            now = self._clock()
            over = [lease.id for lease in self._leases.values() if lease.expires <= now]
            for lease in over:
                self.revoke(lease)
            return len(over)

    def close(self) -> None:
        self._committed.close()

    def _at(self, key: str, revision: int) -> KeyValue | None:
        current = None
        for written, item in self._history.get(key, ()):
            if written > revision:
                break
            current = item
        return current

    def _compare(self, operation: Operation) -> None:
        if operation.expect is None:
            return
        current = self._at(operation.key, self._revision)
        found = current.mod_revision if current else 0
        if found != operation.expect:
            raise Conflict(operation.key, operation.expect, found)

    def _commit(self, operations: Sequence[Put | Delete]) -> int:
        revision = self._revision + 1
        events = []
        for operation in operations:
            before = self._at(operation.key, self._revision)
            if isinstance(operation, Put):
                after: KeyValue | None = _successor(operation, before, revision)
            elif before is None:
                continue
            else:
                after = None
            self._history.setdefault(operation.key, []).append((revision, after))
            events.append(Event(key=operation.key, current=after))
        if events:
            self._revision = revision
            self._commits.append(Commit(revision=revision, events=tuple(events)))
            self._committed.notify(revision)
        return self._revision

    def _log(self, prefix: str, after: int, limit: int) -> tuple[int, Sequence[Commit]]:
        with self._lock:
            if after < self._compacted:
                raise Compacted(self._compacted)
            commits = [c for c in self._commits if c.revision > after][:limit]
            matching = []
            for commit in commits:
                events = tuple(e for e in commit.events if e.key.startswith(prefix))
                if events:
                    matching.append(Commit(revision=commit.revision, events=events))
            return (commits[-1].revision if commits else after), matching


def _successor(put: Put, before: KeyValue | None, revision: int) -> KeyValue:
    return KeyValue(
        key=put.key,
        value=put.value,
        create_revision=before.create_revision if before else revision,
        mod_revision=revision,
        version=before.version + 1 if before else 1,
        lease=put.lease,
    )
