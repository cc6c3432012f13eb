"""Everything that a node knows at one revision: the objects, and what is derived from them, kept by key.

A change costs what changed: an index touches only the keys that an object gained or lost, and what is referred to but
absent is counted as references come and go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from control.wire.address import SocketAddress
from control.wire.discovery import (
    AuthorizationPolicy,
    DiscoveryObject,
    MeshSettings,
    Service,
    TrustBundle,
    Workload,
)
from nodeagent.state.accept import Key
from nodeagent.state.index import Index
from nodeagent.state.targets import ExternalTarget, ServiceTarget, external_sockets
from nodeagent.steps import Steps

T = TypeVar("T", Workload, Service, AuthorizationPolicy, TrustBundle, MeshSettings)

OBJECTS = ("workloads", "services", "policies", "bundles", "meshes")
INDEXES = (
    "by_ip", "by_socket", "by_sni", "by_name", "by_identity", "by_node", "vips", "vip_hosts", "services_of",
    "by_hostname", "externals",
)  # fmt: skip
REFERENCES = ("wanted", "absent", "unreadable", "unreadable_kinds")
DISMANTLED_AT_ONCE = 512
"""Objects of a former revision that one step of ``dismantle`` frees."""


class Tables:
    """One revision. Written by whoever applies a batch, read by ``NodeState``."""

    def __init__(self) -> None:
        self.workloads: dict[str, Workload] = {}
        self.services: dict[str, Service] = {}
        self.policies: dict[str, AuthorizationPolicy] = {}
        self.bundles: dict[str, TrustBundle] = {}
        self.meshes: dict[str, MeshSettings] = {}
        self.by_ip: Index[str] = Index()
        self.by_socket: Index[SocketAddress] = Index()
        self.by_sni: Index[str] = Index()
        self.by_name: Index[tuple[str, str]] = Index()
        self.by_identity: Index[str] = Index()
        self.by_node: Index[str] = Index()
        self.vips: Index[SocketAddress] = Index()
        self.vip_hosts: Index[str] = Index()
        self.services_of: Index[str] = Index()
        self.by_hostname: Index[str] = Index()
        self.externals: Index[SocketAddress] = Index()
        self.wanted: dict[Key, int] = {}
        """Objects that others refer to, and by how many."""
        self.absent: dict[Key, None] = {}
        """Those of ``wanted`` that were never received."""
        self.unreadable: dict[Key, None] = {}
        """Objects that exist, but could not be read."""
        self.unreadable_kinds: dict[str, int] = {}
        self.targets: dict[SocketAddress, ServiceTarget | ExternalTarget] = {}
        """Answers already put together; dropped when the service or one of its endpoints changes."""

    def copy(self, other: Tables) -> Steps[None]:
        """Copy this into ``other``, a table a step. This one must not change any more."""
        for name in OBJECTS + INDEXES + REFERENCES:
            setattr(other, name, getattr(self, name).copy())
            yield

    def settle(self) -> None:
        """What this was copied from is not used any more."""
        for name in INDEXES:
            getattr(self, name).settle()

    def dismantle(self) -> Steps[None]:
        """Free what nobody reads any more, some a step: to drop it all at once takes longer than a loop may stand."""
        for name in OBJECTS:
            table: dict[str, Any] = getattr(self, name)
            while table:
                for _ in range(min(DISMANTLED_AT_ONCE, len(table))):
                    table.popitem()
                yield
        for name in (*INDEXES, *REFERENCES, "targets"):
            setattr(self, name, None)
            yield

    def keys(self) -> Iterator[Key]:
        """(kind, uid) of every object that is held, or could not be read."""
        for kind, table in self._by_kind().items():
            for uid in table:
                yield kind, uid
        yield from self.unreadable

    def missing(self, most: int) -> tuple[str, ...]:
        """At most so many of the objects that are referred to and were never received."""
        return tuple(f"{kind} {uid}" for kind, uid in islice(self.absent, most))

    def update(self, key: Key, value: DiscoveryObject | None, *, unreadable: bool = False) -> bool:
        """The object is this from now on (None: gone, or not readable). Return whether that differs from before."""
        kind, uid = key
        self._note(key, unreadable=unreadable)
        if kind == "workload":
            changed = self._update_workload(uid, value if isinstance(value, Workload) else None)
        elif kind == "service":
            changed = self._update_service(uid, value if isinstance(value, Service) else None)
        elif kind == "policy":
            changed = _put(self.policies, uid, value if isinstance(value, AuthorizationPolicy) else None)
        elif kind == "mesh":
            changed = _put(self.meshes, uid, value if isinstance(value, MeshSettings) else None)
        else:
            changed = _put(self.bundles, uid, value if isinstance(value, TrustBundle) else None)
        self._judge(key)
        return changed

    def _by_kind(self) -> dict[str, dict[str, Any]]:
        return {
            "workload": self.workloads, "service": self.services, "policy": self.policies, "bundle": self.bundles,
            "mesh": self.meshes,
        }  # fmt: skip

    def _note(self, key: Key, *, unreadable: bool) -> None:
        if unreadable == (key in self.unreadable):
            return
        count = self.unreadable_kinds.get(key[0], 0) + (1 if unreadable else -1)
        if unreadable:
            self.unreadable[key] = None
        else:
            del self.unreadable[key]
        self.unreadable_kinds[key[0]] = count

    def _judge(self, key: Key) -> None:
        """Whether the object is referred to and absent. To be sent an unreadable one again would change nothing."""
        held = self.policies if key[0] == "policy" else self.workloads
        if key in self.wanted and key[1] not in held and key not in self.unreadable:
            self.absent[key] = None
        else:
            self.absent.pop(key, None)

    def _refer(self, kind: str, old: Iterable[str], new: Iterable[str]) -> None:
        before, after = dict.fromkeys(old), dict.fromkeys(new)
        for key in [(kind, uid) for uid in after if uid not in before]:
            self.wanted[key] = self.wanted.get(key, 0) + 1
            self._judge(key)
        for key in [(kind, uid) for uid in before if uid not in after]:
            self.wanted[key] -= 1
            if not self.wanted[key]:
                del self.wanted[key]
            self._judge(key)

    def _update_workload(self, uid: str, new: Workload | None) -> bool:
        old = self.workloads.get(uid)
        if not _put(self.workloads, uid, new):
            return False
        was, now = _keys_of_workload(old), _keys_of_workload(new)
        for index, before, after in zip(self._workload_indexes(), was, now, strict=True):
            if before != after:
                index.replace(uid, before, after)
        self._refer("policy", old.policies if old is not None else (), new.policies if new is not None else ())
        for service in self.services_of.all(uid):
            self._forget_targets(self.services[service])
        return True

    def _workload_indexes(self) -> tuple[Index[Any], ...]:
        return (self.by_ip, self.by_socket, self.by_sni, self.by_name, self.by_identity, self.by_node)

    def _update_service(self, uid: str, new: Service | None) -> bool:
        old = self.services.get(uid)
        if not _put(self.services, uid, new):
            return False
        was, now = _keys_of_service(old), _keys_of_service(new)
        indexes: tuple[Index[Any], ...] = (
            self.vips, self.vip_hosts, self.services_of, self.by_hostname, self.externals,
        )  # fmt: skip
        for index, before, after in zip(indexes, was, now, strict=True):
            if before != after:
                index.replace(uid, before, after)
        self._refer("workload", old.endpoints if old is not None else (), new.endpoints if new is not None else ())
        for service in (old, new):
            if service is not None:
                self._forget_targets(service)
        return True

    def _forget_targets(self, service: Service) -> None:
        for address in vips_of(service):
            self.targets.pop(address, None)


def vips_of(service: Service) -> list[SocketAddress]:
    """The virtual addresses of a service, with its ports."""
    return [SocketAddress(ip, port.port) for ip in service.addresses for port in service.ports]


def _keys_of_workload(workload: Workload | None) -> tuple[Any, ...]:
    """Its keys in ``_workload_indexes``."""
    if workload is None:
        return (), (), (), (), (), ()
    sockets = [SocketAddress(ip, port) for ip in workload.addresses for port in workload.ports]
    name = (workload.namespace, workload.name)
    return workload.addresses, sockets, (workload.sni.lower(),), (name,), (workload.identity,), (workload.node,)


def _keys_of_service(service: Service | None) -> tuple[Any, ...]:
    if service is None:
        return (), (), (), (), ()
    outside = [address for address, _ in external_sockets(service)]
    return vips_of(service), service.addresses, service.endpoints, (service.hostname.lower(),), outside


def _put(table: dict[str, T], uid: str, value: T | None) -> bool:
    """Set or take away; whether that made a difference."""
    if table.get(uid) == value:
        return False
    if value is None:
        del table[uid]
    else:
        table[uid] = value
    return True
