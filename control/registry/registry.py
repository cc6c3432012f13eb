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

from control.registry.catalogue import Catalogue, Key
from control.registry.entries import ServiceEntry, ServiceEntryStatus
from control.registry.errors import Fault, Invalid, Missing, Stale
from control.registry.model import Resource
from control.registry.parse import KINDS, parse
from control.registry.services import Service, ServiceStatus
from control.registry.validate import check, check_removal
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
    """What became of one object of a request."""

    action: Literal["created", "configured", "unchanged", "deleted"]
    resource: Resource


class Registry:
    """The one way to the resources. Safe for threads. ``domain``: names below it are the mesh's own."""

    def __init__(self, store: Store, clock: Clock, domain: str = DEFAULT_DOMAIN) -> None:
        self._store = store
        self._clock = clock
        self._domain = domain
        self._lock = threading.Lock()
        self._parsed: dict[str, tuple[int, Resource]] = {}

    @property
    def instance(self) -> str:
        """Identifies the history that revisions count."""
        return self._store.instance

    @property
    def revision(self) -> int:
        """The store's newest revision."""
        return self._store.revision

    def catalogue(self) -> Catalogue:
        """Everything, as of one revision."""
        found = self._store.range(PREFIX)
        with self._lock:
            resources = [self._resource(item) for item in found.items]
            self._parsed = {r_key: self._parsed[r_key] for r_key in (item.key for item in found.items)}
        return Catalogue(resources, found.revision)

    def get(self, kind: str, namespace: str, name: str) -> Resource:
        """One resource, or Missing."""
        named = is_dns_label(name) and (not KINDS[kind].NAMESPACED or is_dns_label(namespace))
        item = self._store.get(store_key((kind, namespace, name))) if named else None
        if item is None:
            raise Missing([Fault("not found", subject=_subject((kind, namespace, name)))])
        return read(item)

    def apply(self, values: Sequence[Any], *, dry_run: bool = False) -> list[Outcome]:
        """Create or update all of them in one transaction; Invalid or Stale says why nothing was done."""
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

    def _try_apply(self, wanted: list[Resource], dry_run: bool) -> list[Outcome]:
        guard, cursor = self._guard()
        present = self.catalogue()
        stale = [fault for i, r in enumerate(wanted) if (fault := _stale(r, present.get(r.key), i))]
        if stale:
            raise Stale(stale)
        merged = [self._merge(resource, present.get(resource.key)) for resource in wanted]
        merged, cursor = _give_addresses(merged, present, cursor)
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
        missing, stale, doomed = [], [], {}
        for index, (key, version) in enumerate(keys):
            resource = present.get(key)
            if resource is None:
                missing.append(Fault("not found", index=index, subject=_subject(key)))
            elif version is not None and version != resource.metadata.resource_version:
                stale.append(_stale_fault(resource, version, index))
            else:
                doomed[key] = index
        if missing and not ignore_missing:
            raise Missing(missing)
        if stale:
            raise Stale(stale)
        faults = check_removal(present.with_changes((), doomed), doomed)
        if faults:
            raise Invalid(faults)
        gone = [r for key in doomed if (r := present.get(key)) is not None]
        if gone:
            operations: list[Operation] = [_guard_put(guard, cursor)]
            operations += [Delete(key=store_key(r.key), expect=_revision(r)) for r in gone]
            self._store.transact(operations)
        return [Outcome("deleted", resource) for resource in gone]

    def _guard(self) -> tuple[int, int]:
        """(its mod revision, the cursor of virtual addresses)."""
        item = self._store.get(GUARD_KEY)
        return (0, 0) if item is None else (item.mod_revision, int(json.loads(item.value)["nextAddress"]))

    def _merge(self, resource: Resource, present: Resource | None) -> Resource:
        """With the server's own fields: kept from what is there, or new."""
        created = present.metadata.creation_timestamp if present else _timestamp(self._clock())
        update = {
            "uid": present.metadata.uid if present else None,
            "resource_version": present.metadata.resource_version if present else None,
            "creation_timestamp": created,
        }
        merged = resource.model_copy(update={"metadata": resource.metadata.model_copy(update=update)})
        if isinstance(merged, Service):
            kept = present.status if isinstance(present, Service) and not merged.spec.addresses else None
            return merged.model_copy(update={"status": kept})
        if isinstance(merged, ServiceEntry):
            return merged.model_copy(update={"status": present.status if isinstance(present, ServiceEntry) else None})
        return merged

    def _outcome(self, resource: Resource, present: Resource | None, changed: bool, dry_run: bool) -> Outcome:
        action: Literal["created", "configured", "unchanged"] = (
            "created" if present is None else "configured" if changed else "unchanged"
        )
        if not changed or dry_run:
            return Outcome(action, resource)
        item = self._store.get(store_key(resource.key))
        return Outcome(action, resource if item is None else read(item))

    def _resource(self, item: KeyValue) -> Resource:
        known = self._parsed.get(item.key)
        if known is None or known[0] != item.mod_revision:
            known = self._parsed[item.key] = (item.mod_revision, read(item))
        return known[1]


def _parse_all(values: Sequence[Any]) -> list[Resource]:
    if len(values) > MAX_OBJECTS:
        raise Invalid([Fault(f"{len(values)} objects in one request; at most {MAX_OBJECTS} are allowed")])
    wanted: list[Resource] = []
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


def _give_addresses(resources: list[Resource], present: Catalogue, cursor: int) -> tuple[list[Resource], int]:
    """Allocate for services and for hosts that have no addresses, neither given nor kept."""
    named = present.with_changes(resources).named()
    allocation = _Allocation(cursor, {address for each in named for address in each.addresses})
    given: list[Resource] = []
    for index, resource in enumerate(resources):
        try:
            if isinstance(resource, Service) and not resource.addresses:
                pair = allocation.take()
                resource = resource.model_copy(update={"status": ServiceStatus(addresses=pair)})  # noqa: PLW2901
            elif isinstance(resource, ServiceEntry):
                addresses = {host: resource.addresses_of(host) or allocation.take() for host in resource.spec.hosts}
                status = ServiceEntryStatus(addresses=addresses)
                resource = resource.model_copy(update={"status": status})  # noqa: PLW2901
        except PoolExhaustedError as error:
            raise Invalid([Fault(str(error), "spec.addresses", index, resource.subject)]) from error
        given.append(resource)
    return given, allocation.cursor


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


def _stale(resource: Resource, present: Resource | None, index: int) -> Fault | None:
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


def _stale_fault(present: Resource, version: str, index: int) -> Fault:
    return Fault(
        f"it has changed: it is at resourceVersion {present.metadata.resource_version}, the request was made from "
        f"{version}; read it again",
        "metadata.resourceVersion",
        index,
        present.subject,
    )


def _same(resource: Resource, present: Resource | None) -> bool:
    return present is not None and write(resource) == write(present)


def _revision(resource: Resource | None) -> int:
    return int(resource.metadata.resource_version or 0) if resource else 0


def store_key(key: Key) -> str:
    """``/resources/<plural>[/<namespace>]/<name>``."""
    kind, namespace, name = key
    return f"{PREFIX}{KINDS[kind].PLURAL}/{namespace + '/' if KINDS[kind].NAMESPACED else ''}{name}"


def write(resource: Resource) -> bytes:
    """What the store keeps: all but the fields that follow from revisions."""
    value = resource.model_dump(mode="json", by_alias=True, exclude_none=True)
    value["metadata"].pop("uid", None)
    value["metadata"].pop("resourceVersion", None)
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def read(item: KeyValue) -> Resource:
    """What the store kept, with uid and resourceVersion."""
    value = json.loads(item.value)
    cls = KINDS[value["kind"]]
    resource: Resource = cls.model_validate(value)
    metadata = resource.metadata.model_copy(
        update={"uid": f"{resource.ref}@{item.create_revision}", "resource_version": str(item.mod_revision)}
    )
    return resource.model_copy(update={"metadata": metadata})


def _subject(key: Key) -> str:
    kind, namespace, name = key
    return f"{kind} {namespace + '/' if namespace else ''}{name}"


def _timestamp(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
