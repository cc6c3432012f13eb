"""What the kernel's maps should hold, and how that differs from what they hold. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Final, Generic, NamedTuple, TypeVar
from zlib import crc32

from control.wire.address import AddressError, SocketAddress, canonical_ip
from control.wire.discovery import EgressMode, Service, Workload
from control.wire.governed import CAPTURE_LABEL, DNS_LABEL
from nodeagent.loader.abi import CgroupFlag, DestinationFlag
from nodeagent.state.targets import external_sockets

MIN_USER_NUMBER: Final = 1 << 63
"""Greater than the id of any cgroup."""

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
        return int.from_bytes(digest, "big") | MIN_USER_NUMBER


class Member(NamedTuple):
    """A cgroup that a claim covers, or the part of it that belongs to one user."""

    cgroup: int
    """The kernel's id of the cgroup."""
    directory: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The cgroups that one workload selects, and how the traffic of their processes is treated."""

    workload: str
    """uid of the workload."""
    cgroups: Mapping[int, Path] = field(default_factory=dict)
    """Kernel id of each selected cgroup -> its directory."""
    user: int | None = None
    """Cover only the processes of this user; None: every process in the cgroups."""
    dns: bool = True
    """Whether the agent takes their DNS questions (``DNS_LABEL``)."""
    egress: EgressMode = EgressMode.ALLOW_ANY
    left: bool = False
    """Whether the workload has left the mesh for now (``CAPTURE_LABEL``)."""

    @classmethod
    def of(cls, workload: Workload, cgroups: Mapping[int, Path]) -> Claim:
        """The claim of a workload to these cgroups."""
        return cls(
            workload=workload.uid, cgroups=cgroups, user=workload.selectors.uid,
            dns=workload.labels.get(DNS_LABEL) != "off", egress=workload.egress_mode,
            left=workload.labels.get(CAPTURE_LABEL) == "off",
        )  # fmt: skip

    @property
    def confined(self) -> bool:
        """Whether the processes may reach only what is registered. An unknown mode confines."""
        return self.egress is not EgressMode.ALLOW_ANY

    @property
    def users(self) -> tuple[User, ...]:
        """The users of cgroups that the claim covers; none if it covers whole cgroups."""
        return () if self.user is None else tuple(User(cgroup, self.user) for cgroup in self.cgroups)

    @property
    def members(self) -> dict[int, Member]:
        """Each number that stands for a part of the claim: a cgroup id, or ``User.number``."""
        if self.user is None:
            return {cgroup: Member(cgroup, path) for cgroup, path in self.cgroups.items()}
        return {user.number: Member(user.cgroup, self.cgroups[user.cgroup]) for user in self.users}


@dataclass(frozen=True, slots=True)
class Enrolment:
    """Which claims there are to each cgroup. A cgroup with several claims is *contested*: its connections are captured,
    but it belongs to no workload, and the relay refuses them.
    """

    claims: Mapping[int, tuple[Claim, ...]]
    """Cgroup id, or ``User.number`` -> the claims to it, at least one."""
    problems: tuple[str, ...] = ()
    partial: bool = False
    """Not everything is known: nothing that is captured now may be let go on the strength of this."""

    @property
    def cgroups(self) -> dict[int, str]:
        """Cgroup id, or ``User.number`` -> uid of the one workload that claims it."""
        return {number: claims[0].workload for number, claims in self.claims.items() if len(claims) == 1}

    @property
    def contested(self) -> dict[int, tuple[str, ...]]:
        """Cgroup id, or ``User.number`` -> uids of the workloads that all claim it, sorted."""
        return {
            number: tuple(sorted(claim.workload for claim in claims))
            for number, claims in self.claims.items()
            if len(claims) > 1
        }

    @property
    def users(self) -> frozenset[User]:
        """Those of the numbers in ``claims`` that stand for users of cgroups."""
        return frozenset(user for claims in self.claims.values() for claim in claims for user in claim.users)

    def entries(self) -> dict[int, Entry]:
        """What the map of enrolled cgroups should hold."""
        entries = {number: Entry(_owner_tag(claims), _flags(claims)) for number, claims in self.claims.items()}
        for shared in {user.cgroup for user in self.users}:
            whole = entries.get(shared, Entry(0, CgroupFlag.ONLY_USERS))
            entries[shared] = whole._replace(flags=whole.flags | CgroupFlag.BY_USER)
        return entries


def _owner_tag(claims: tuple[Claim, ...]) -> int:
    return tag(claims[0].workload) if len(claims) == 1 else 0


def _flags(claims: tuple[Claim, ...]) -> CgroupFlag:
    """The strictest of all claims; whether to leave a cgroup alone is for its only owner to say."""
    flags = CgroupFlag.REGISTRY_ONLY if any(claim.confined for claim in claims) else CgroupFlag(0)
    if len(claims) > 1:
        return flags
    if claims[0].left:
        return CgroupFlag.LEFT
    return flags if claims[0].dns else flags | CgroupFlag.NO_DNS


@dataclass(frozen=True, slots=True)
class DestinationPlan:
    """Everything that is captured when an enrolled process connects to it."""

    entries: dict[SocketAddress, Entry]
    problems: tuple[str, ...] = ()
    touched: frozenset[SocketAddress] | None = None
    """All others are as they were when these were applied last; None: any may differ."""


@dataclass(frozen=True, slots=True)
class Difference(Generic[K, V]):
    """What to write and what to delete so that present becomes desired."""

    put: dict[K, V]
    remove: tuple[K, ...]


def tag(uid: str) -> int:
    """Tells a reader of a map which object made an entry; nothing is decided by it."""
    return crc32(uid.encode())


def enrol(claims: Iterable[Claim], problems: Iterable[str] = ()) -> Enrolment:
    """Put the claims of all workloads together. A cgroup, or a user of one, that two workloads claim is a problem."""
    found: dict[int, list[Claim]] = {}
    names: dict[int, str] = {}
    for claim in claims:
        for number, member in claim.members.items():
            found.setdefault(number, []).append(claim)
            names[number] = str(number) if claim.user is None else f"{member.cgroup} uid {claim.user}"
    enrolment = Enrolment({number: tuple(group) for number, group in found.items()})
    contested = tuple(
        f"cgroup {names[number]} is selected by {' and '.join(workloads)}: its connections to the mesh"
        " are refused; make their selectors disjoint"
        for number, workloads in sorted(enrolment.contested.items())
    )
    return replace(enrolment, problems=(*problems, *contested))


def destinations_of(services: Iterable[Service], workloads: Iterable[Workload]) -> DestinationPlan:
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
    return DestinationPlan(entries, tuple(problems))


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
