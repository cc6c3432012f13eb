"""What the kernel's maps should hold, and how that differs from what they hold. Pure."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Generic, NamedTuple, TypeVar
from zlib import crc32

from control.wire.address import AddressError, SocketAddress, canonical_ip
from control.wire.discovery import Service, Workload
from nodeagent.loader.abi import CgroupFlag, DestinationFlag
from nodeagent.state.targets import external_sockets

K = TypeVar("K")
V = TypeVar("V")


class Entry(NamedTuple):
    """The value of a cgroup or a destination: who made it (CRC-32 of the uid, for readers of the map), and flags."""

    tag: int
    flags: int


class User(NamedTuple):
    """A user of a cgroup that workloads share."""

    cgroup: int
    uid: int

    @property
    def number(self) -> int:
        """Stands for both wherever the id of an enrolled cgroup does. No cgroup's id has its top bit."""
        digest = blake2b(f"{self.cgroup}:{self.uid}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") | 1 << 63


@dataclass(frozen=True, slots=True)
class Enrolment:
    """Who is in which cgroup. ``contested`` cgroups are captured, but nobody's: the relay refuses them."""

    cgroups: dict[int, str]
    """Cgroup id, or ``User.number`` -> uid of the workload."""
    contested: frozenset[int] = frozenset()
    problems: tuple[str, ...] = ()
    unasked: frozenset[str] = frozenset()
    """uids of workloads whose DNS questions are left alone (``DNS_LABEL``)."""
    left: frozenset[str] = frozenset()
    """uids of workloads that are not captured for now (``CAPTURE_LABEL``)."""
    confined: frozenset[int] = frozenset()
    """Cgroups whose processes reach what the registry names and nothing else (REGISTRY_ONLY)."""
    users: frozenset[User] = frozenset()
    """Those of ``cgroups`` and ``contested`` that are users of cgroups."""
    partial: bool = False
    """Not everything is known: nothing that is captured now may be let go on the strength of this."""

    def entries(self) -> dict[int, Entry]:
        """What the map of enrolled cgroups should hold."""
        tags = {cgroup: tag(uid) for cgroup, uid in self.cgroups.items()} | dict.fromkeys(self.contested, 0)
        entries = {cgroup: Entry(owner, self._flags(cgroup)) for cgroup, owner in tags.items()}
        for shared in {user.cgroup for user in self.users}:
            whole = entries.get(shared, Entry(0, CgroupFlag.ONLY_USERS))
            entries[shared] = whole._replace(flags=whole.flags | CgroupFlag.BY_USER)
        return entries

    def _flags(self, cgroup: int) -> CgroupFlag:
        if self.cgroups.get(cgroup) in self.left:
            return CgroupFlag.LEFT
        unasked = CgroupFlag.NO_DNS if self.cgroups.get(cgroup) in self.unasked else CgroupFlag(0)
        return unasked | (CgroupFlag.REGISTRY_ONLY if cgroup in self.confined else CgroupFlag(0))


@dataclass(frozen=True, slots=True)
class Destinations:
    """Everything that is captured when an enrolled process connects to it."""

    entries: dict[SocketAddress, Entry]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Difference(Generic[K, V]):
    """What to write and what to delete so that present becomes desired."""

    put: dict[K, V]
    remove: tuple[K, ...]


def tag(uid: str) -> int:
    """Tells a reader of a map which object made an entry; nothing is decided by it."""
    return crc32(uid.encode())


def enrol(
    found: Iterable[tuple[str, Iterable[int]]],
    problems: Iterable[str] = (),
    unasked: Iterable[str] = (),
    confined: Container[str] = (),
    users: Collection[User] = (),
    left: Iterable[str] = (),
) -> Enrolment:
    """From (workload uid, ids of its cgroups). A cgroup that two workloads select is nobody's, and a problem. So is a
    user of a cgroup: ``users`` has those of which the numbers are among the ids.

    ``unasked``: uids of workloads whose DNS questions are left alone; ``confined``: uids of those that reach only what
    is registered; ``left``: uids of those that are not captured for now. A cgroup is confined if any that selects it
    is.
    """
    owners: dict[int, list[str]] = {}
    for uid, cgroups in found:
        for cgroup in cgroups:
            owners.setdefault(cgroup, []).append(uid)
    contested = {cgroup: uids for cgroup, uids in owners.items() if len(uids) > 1}
    names = {user.number: f"{user.cgroup} uid {user.uid}" for user in users}
    told = tuple(
        f"cgroup {names.get(cgroup, cgroup)} is selected by {' and '.join(sorted(uids))}: its connections to the mesh"
        " are refused; make their selectors disjoint"
        for cgroup, uids in sorted(contested.items())
    )
    settled = {cgroup: uids[0] for cgroup, uids in owners.items() if len(uids) == 1}
    shut = frozenset(cgroup for cgroup, uids in owners.items() if any(uid in confined for uid in uids))
    return Enrolment(
        settled, frozenset(contested), (*problems, *told), unasked=frozenset(unasked), left=frozenset(left),
        confined=shut, users=frozenset(users),
    )  # fmt: skip


def destinations_of(services: Iterable[Service], workloads: Iterable[Workload]) -> Destinations:
    """Every (virtual address, port) of a service, every (address, port) of a workload, and those outside the mesh that
    are written down.
    """
    entries: dict[SocketAddress, Entry] = {}
    problems: list[str] = []
    services = tuple(services)
    for service in services:
        entry = Entry(tag(service.uid), DestinationFlag.EXTERNAL)
        entries.update((address, entry) for address, _ in external_sockets(service))
    for workload in workloads:
        entry = Entry(tag(workload.uid), DestinationFlag.WORKLOAD)
        _add(entries, problems, f"workload {workload.uid}", workload.addresses, workload.ports, entry)
    for service in services:
        entry = Entry(tag(service.uid), DestinationFlag.SERVICE)
        ports = [port.port for port in service.ports]
        _add(entries, problems, f"service {service.uid}", service.addresses, ports, entry)
    return Destinations(entries, tuple(problems))


def _add(
    entries: dict[SocketAddress, Entry],
    problems: list[str],
    owner: str,
    addresses: Iterable[str],
    ports: Iterable[int],
    entry: Entry,
) -> None:
    for address in addresses:
        try:
            ip = canonical_ip(address)
        except AddressError as error:
            problems.append(f"{owner}: {error}; connections to it are not captured")
            continue
        for port in ports:
            entries[SocketAddress(ip, port)] = entry


def difference(desired: Mapping[K, V], present: Mapping[K, V]) -> Difference[K, V]:
    """What differs; nothing where both agree."""
    return Difference(
        {key: value for key, value in desired.items() if present.get(key) != value},
        tuple(key for key in present if key not in desired),
    )
