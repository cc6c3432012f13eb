"""Resources over a store: apply and delete whole requests or nothing, read, and count revisions.

Rules between resources need all of them to stand still, so every write also writes one shared key (``GUARD_KEY``) with
compare-and-swap: of two writers at once, one starts over. That key also holds the cursor of virtual addresses.
"""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from control.kinds.base.fault import Fault
from control.kinds.base.model import Key, Resource
from control.kinds.known import KINDS
from control.registry.catalogue import Catalogue
from control.registry.errors import Invalid, Missing, Stale
from control.registry.parse import parse
from control.registry.validate import check, check_removal, subject
from control.registry.vips import PoolExhaustedError, allocate
from control.store.base import Conflict, Delete, KeyValue, Operation, Put, Store
from control.wire.ids import DEFAULT_DOMAIN, is_dns_label

PREFIX = "/resources/"
GUARD_KEY = "/registry/guard"
MAX_OBJECTS = 5000
"""In one request."""
MAX_ATTEMPTS = 50
"""How often a write starts over because another came first."""

Clock = Callable[[], float]


class BusyError(Exception):
    """Too many writers at once; try again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result for one object of a request."""

    action: Literal["created", "configured", "unchanged", "deleted"]
    resource: Resource[Any]


class Registry:
    """The resources of the mesh; all writes pass through here. Safe for threads.

    ``domain`` is the DNS suffix of the mesh's own services.
    """

    def __init__(self, store: Store, clock: Clock, domain: str = DEFAULT_DOMAIN) -> None:
        self._store = store
        self._clock = clock
        self._domain = domain
        self._lock = threading.Lock()
        self._parsed: dict[str, tuple[int, Resource[Any]]] = {}

    @property
    def instance(self) -> str:
        """Identifies the history that revisions count."""
        return self._store.instance

    @property
    def revision(self) -> int:
        """The store's newest revision."""
        return self._store.revision

    def catalogue(self) -> Catalogue:
        """Read all resources as of one revision."""
        found = self._store.range(PREFIX)
        with self._lock:
            resources = [self._resource(item) for item in found.items]
            self._parsed = {r_key: self._parsed[r_key] for r_key in (item.key for item in found.items)}
        return Catalogue(resources, found.revision)

    def get(self, kind: str, namespace: str, name: str) -> Resource[Any]:
        """Return one resource; Missing if it does not exist."""
        named = is_dns_label(name) and (not KINDS[kind].namespaced or is_dns_label(namespace))
        item = self._store.get(store_key((kind, namespace, name))) if named else None
        if item is None:
            raise Missing([Fault("not found", subject=subject((kind, namespace, name)))])
        return read(item)

    def apply(self, values: Sequence[Any], *, dry_run: bool = False) -> list[Outcome]:
        """Create or update all of them in one transaction, or none: Invalid or Stale says why."""
        wanted = _parse_all(values)
        for _ in range(MAX_ATTEMPTS):
            try:
                return self._try_apply(wanted, dry_run)
            except Conflict:
                continue
        raise BusyError("other writers always came first; try again")

    def delete(self, keys: Sequence[tuple[Key, str | None]], *, ignore_missing: bool = False) -> list[Outcome]:
        """Remove all of them in one transaction; the text is the resourceVersion that each must have, or None."""
        for _ in range(MAX_ATTEMPTS):
            try:
                return self._try_delete(keys, ignore_missing)
            except Conflict:
                continue
        raise BusyError("other writers always came first; try again")

    def _try_apply(self, wanted: list[Resource[Any]], dry_run: bool) -> list[Outcome]:
        guard, cursor = self._guard()
        present = self.catalogue()
        stale = [fault for i, r in enumerate(wanted) if (fault := _stale(r, present.get(r.key), i))]
        if stale:
            raise Stale(stale)
        merged = [self._merge(resource, present.get(resource.key)) for resource in wanted]
        merged, cursor = _allocate(merged, present, cursor)
        changed = [r for r in merged if not _same(r, present.get(r.key))]
        origins = {resource.key: index for index, resource in enumerate(wanted)}
        faults = check(present.with_changes(merged), origins, self._domain) if changed else []
        if faults:
            raise Invalid(faults)
        if changed and not dry_run:
            operations: list[Operation] = [_guard_put(guard, cursor)]
            operations += [
                Put(key=store_key(r.key), value=write(r), expect=_revision(present.get(r.key))) for r in changed
            ]
            self._store.transact(operations)
        written = {r.key for r in changed}
        return [self._outcome(r, present.get(r.key), r.key in written, dry_run) for r in merged]

    def _try_delete(self, keys: Sequence[tuple[Key, str | None]], ignore_missing: bool) -> list[Outcome]:
        guard, cursor = self._guard()
        present = self.catalogue()
        missing, stale, removed = [], [], {}
        for index, (key, version) in enumerate(keys):
            resource = present.get(key)
            if resource is None:
                missing.append(Fault("not found", index=index, subject=subject(key)))
            elif version is not None and version != resource.metadata.resource_version:
                stale.append(_stale_fault(resource, version, index))
            else:
                removed[key] = index
        if missing and not ignore_missing:
            raise Missing(missing)
        if stale:
            raise Stale(stale)
        faults = check_removal(present.with_changes((), removed), removed)
        if faults:
            raise Invalid(faults)
        gone = [r for key in removed if (r := present.get(key)) is not None]
        if gone:
            operations: list[Operation] = [_guard_put(guard, cursor)]
            operations += [Delete(key=store_key(r.key), expect=_revision(r)) for r in gone]
            self._store.transact(operations)
        return [Outcome("deleted", resource) for resource in gone]

    def _guard(self) -> tuple[int, int]:
        """(its mod revision, the cursor of virtual addresses)."""
        item = self._store.get(GUARD_KEY)
        return (0, 0) if item is None else (item.mod_revision, int(json.loads(item.value)["nextAddress"]))

    def _merge(self, resource: Resource[Any], present: Resource[Any] | None) -> Resource[Any]:
        """Set the server's own fields: as they are stored, or new."""
        created = present.metadata.creation_timestamp if present else _timestamp(self._clock())
        update = {
            "uid": present.metadata.uid if present else None,
            "resource_version": present.metadata.resource_version if present else None,
            "creation_timestamp": created,
        }
        merged: dict[str, Any] = {"metadata": resource.metadata.model_copy(update=update)}
        if KINDS[resource.kind].status is not None:
            merged["status"] = getattr(present, "status", None)
        return resource.model_copy(update=merged)

    def _outcome(self, resource: Resource[Any], present: Resource[Any] | None, changed: bool, dry_run: bool) -> Outcome:
        action: Literal["created", "configured", "unchanged"] = (
            "created" if present is None else "configured" if changed else "unchanged"
        )
        if not changed or dry_run:
            return Outcome(action, resource)
        item = self._store.get(store_key(resource.key))
        return Outcome(action, resource if item is None else read(item))

    def _resource(self, item: KeyValue) -> Resource[Any]:
        known = self._parsed.get(item.key)
        if known is None or known[0] != item.mod_revision:
            known = self._parsed[item.key] = (item.mod_revision, read(item))
        return known[1]


def _parse_all(values: Sequence[Any]) -> list[Resource[Any]]:
    if len(values) > MAX_OBJECTS:
        raise Invalid([Fault(f"{len(values)} objects in one request; at most {MAX_OBJECTS} are allowed")])
    wanted: list[Resource[Any]] = []
    faults: list[Fault] = []
    places: dict[Key, int] = {}
    for index, value in enumerate(values):
        resource = parse(value, index)
        if isinstance(resource, list):
            faults += resource
            continue
        first = places.setdefault(resource.key, index)
        if first != index:
            faults.append(Fault(f"given twice, as objects {first + 1} and {index + 1}", "", index, resource.subject))
        wanted.append(resource)
    if faults:
        raise Invalid(faults)
    return wanted


def _allocate(resources: list[Resource[Any]], present: Catalogue, cursor: int) -> tuple[list[Resource[Any]], int]:
    """Give virtual addresses to the resources that need some: (the resources, the next cursor)."""
    used = {address for address, _ in present.with_changes(resources).virtual_addresses()}
    allocation = _Allocation(cursor, used)
    complete: list[Resource[Any]] = []
    for index, resource in enumerate(resources):
        allocate_for = KINDS[resource.kind].allocate
        try:
            complete.append(resource if allocate_for is None else allocate_for(resource, allocation.take))
        except PoolExhaustedError as error:
            raise Invalid([Fault(str(error), "spec.addresses", index, resource.subject)]) from error
    return complete, allocation.cursor


class _Allocation:
    """Virtual addresses of one request."""

    def __init__(self, cursor: int, used: set[str]) -> None:
        self.cursor = cursor
        self._used = used

    def take(self) -> tuple[str, str]:
        """One of each family."""
        pair, self.cursor = allocate(self.cursor, self._used)
        self._used.update(pair)
        return pair


def _guard_put(expect: int, cursor: int) -> Put:
    return Put(key=GUARD_KEY, value=json.dumps({"nextAddress": cursor}).encode(), expect=expect)


def _stale(resource: Resource[Any], present: Resource[Any] | None, index: int) -> Fault | None:
    version = resource.metadata.resource_version
    if version is None or (present is not None and version == present.metadata.resource_version):
        return None
    if present is None:
        return Fault(
            f"it does not exist (any more); leave resourceVersion {version} out to create it",
            "metadata.resourceVersion",
            index,
            resource.subject,
        )
    return _stale_fault(present, version, index)


def _stale_fault(present: Resource[Any], version: str, index: int) -> Fault:
    return Fault(
        f"it has changed: it is at resourceVersion {present.metadata.resource_version}, the request was made from "
        f"{version}; read it again",
        "metadata.resourceVersion",
        index,
        present.subject,
    )


def _same(resource: Resource[Any], present: Resource[Any] | None) -> bool:
    return present is not None and write(resource) == write(present)


def _revision(resource: Resource[Any] | None) -> int:
    return int(resource.metadata.resource_version or 0) if resource else 0


def store_key(key: Key) -> str:
    """``/resources/<plural>[/<namespace>]/<name>``."""
    kind, namespace, name = key
    return f"{PREFIX}{KINDS[kind].plural}/{namespace + '/' if KINDS[kind].namespaced else ''}{name}"


def write(resource: Resource[Any]) -> bytes:
    """What the store keeps: all but the fields that follow from revisions."""
    value = resource.model_dump(mode="json", by_alias=True, exclude_none=True)
    value["metadata"].pop("uid", None)
    value["metadata"].pop("resourceVersion", None)
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def read(item: KeyValue) -> Resource[Any]:
    """What the store kept, with uid and resourceVersion."""
    value = json.loads(item.value)
    resource = KINDS[value["kind"]].model.model_validate(value)
    metadata = resource.metadata.model_copy(
        update={"uid": f"{resource.ref}@{item.create_revision}", "resource_version": str(item.mod_revision)}
    )
    return resource.model_copy(update={"metadata": metadata})


def _timestamp(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
