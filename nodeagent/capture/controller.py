"""The manager's handle on capture: load and attach, say who is enrolled and what is in the mesh, report. Synchronous
and quick.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from control.wire.address import SocketAddress, packed_ip
from control.wire.discovery import Workload
from nodeagent.capture.apply import MapWriter
from nodeagent.capture.cgroups import CgroupError, CgroupTree, cgroup2_mount, cgroup_id, own_cgroup_ids
from nodeagent.capture.doors import AgentPorts, DoorKeeper, reservations, undo_reservations
from nodeagent.capture.egress import EgressTable
from nodeagent.capture.inbound import InboundGuard
from nodeagent.capture.plan import Claim, DestinationPlan, Enrolment, Entry, Member, enrol
from nodeagent.capture.watch import Watch
from nodeagent.containers.node import Containers, Places
from nodeagent.loader import features, objects, pins
from nodeagent.loader.abi import PROGRAMS, CgroupFlag, Crew, ListenerFlag
from nodeagent.loader.cohabitants import CoHabitant, cohabitants
from nodeagent.loader.doors import CrewCounts
from nodeagent.loader.errors import LoaderError
from nodeagent.loader.features import Features
from nodeagent.loader.maps import Alive, Counters, ListenerRecord, Listeners
from nodeagent.loader.objects import PinnedLinks
from nodeagent.loader.pins import PinDirectory
from nodeagent.loader.questions import DnsPorts, DnsRecord
from nodeagent.loader.wires import WireLinks
from nodeagent.namespaces.handle import Namespace, current_cookie
from nodeagent.namespaces.loopback import has_ipv6_loopback
from nodeagent.namespaces.reserved import listed
from nodeagent.namespaces.sources import NO_SOURCES, Sources, sources


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureSettings:
    """Where the agent captures and where it pins."""

    bpffs: Path = Path("/sys/fs/bpf")
    instance: str = "default"
    cgroup_root: Path | None = None
    """None: the whole cgroup v2 tree, which is what a host wants. A process outside of it can neither be captured, nor
    be kept from the capture port or from adopting a stale record: narrow it only where nobody else shares the network
    namespace.
    """
    containers: Places = field(default_factory=Places)
    """Where container runtimes keep their state."""
    container_records: Path = Path("/run/nodemesh/default.containers")
    """What runtimes told ``nodeagent oci-hook``."""
    sealed_without_agent: bool = False
    """Whether mesh destinations are refused to who is in no workload whenever no manager ``watches``."""
    ports: AgentPorts = field(default_factory=AgentPorts)
    workers: int = 1
    """How many an agent has: numbers of workers are below that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureStatus:
    """What an operator should know; plain data."""

    features: Features
    pin_dir: str
    cgroup_root: str
    bpffs_mounted: bool
    """Whether the agent had to mount the BPF file system; it stays mounted."""
    programs: dict[str, int]
    """Program -> kernel id, of those in force."""
    cohabitants: tuple[CoHabitant, ...]
    counters: dict[str, int]
    enrolled: int
    destinations: int
    listeners: dict[int, int]
    """Network namespace cookie -> capture port."""
    incomplete: bool
    problems: tuple[str, ...]
    reserved: dict[int, list[int]] = field(default_factory=dict)
    """Network namespace cookie -> ports that were reserved there for the agent (net.ipv4.ip_local_reserved_ports)."""


class Capture:
    """Holds the pins of one instance (nobody else can, meanwhile). ``close`` leaves everything in force."""

    def __init__(
        self, settings: CaptureSettings, tree: CgroupTree, supported: Features, directory: PinDirectory
    ) -> None:
        self._settings = settings
        self._tree = tree
        self._features = supported
        self._pins = directory
        self._claims: dict[str, Claim] = {}
        """uid of a workload -> what the last ``resolve`` found for it."""
        self._entered: frozenset[int] = frozenset()
        self._members: dict[int, Member] = {}
        self._former: dict[int, Member] = {}
        self._problems: tuple[str, ...] = ()
        self._destination_problems: tuple[str, ...] = ()
        self._watch = Watch()
        objects.install(directory, tree.root)
        self._links = PinnedLinks(directory)
        self._maps = MapWriter(directory.path)
        self._listeners = Listeners(directory.path)
        self._dns_ports = DnsPorts(directory.path)
        self._counters = Counters(directory.path)
        self._alive = Alive(directory.path)
        self._doors = DoorKeeper(directory.path, settings.ports)
        self._wires = WireLinks(directory)
        self._inbound: InboundGuard | None = None
        with contextlib.closing(CrewCounts(directory.path)) as crew:
            crew.put(Crew.WORKERS, settings.workers)
        self._watcher: socket.socket | None = None
        self._maps.seal_when_alone(settings.sealed_without_agent)

    @classmethod
    def open(cls, settings: CaptureSettings) -> Capture:
        """Probe the kernel, load, pin, attach; or take over what an earlier run left. LoaderError or CgroupError say
        why not.
        """
        mount = cgroup2_mount(Path("/proc/self/mounts").read_text())
        tree = CgroupTree(settings.cgroup_root, Containers(settings.containers, settings.container_records, mount))
        supported = features.probe(tree.root)
        supported.require()
        directory = PinDirectory(settings.bpffs, settings.instance)
        try:
            return cls(settings, tree, supported, directory)
        except BaseException:
            directory.close()
            raise

    @property
    def pin_dir(self) -> Path:
        """What workers need to open a FlowTable."""
        return self._pins.path

    @property
    def cgroup_root(self) -> Path:
        """Below which workloads are."""
        return self._tree.root

    def open_inbound(self) -> InboundGuard:
        """The handle on plaintext that arrives. CgroupError if the agent's own connections would not be known for what
        they are: the programs that mark them see only what is below ``cgroup_root``.
        """
        root = cgroup_id(self._tree.root)
        if root not in own_cgroup_ids():
            raise CgroupError(
                f"the agent runs outside of its cgroup root {self._tree.root}: workloads could not tell its connections"
                " from plaintext; start it in a cgroup below, or set cgroup_root to one that holds the agent as well"
            )
        self._inbound = InboundGuard(self._pins)
        return self._inbound

    def open_egress(self) -> EgressTable:
        """The handle on who left the mesh, and who was kept from it."""
        return EgressTable(self.pin_dir)

    def set_listeners(self, port: int, dns_port: int = 0) -> None:
        """``serve``, for this process's own network namespace."""
        self.serve(current_cookie(), port, dns_port, ipv6=has_ipv6_loopback(None), source=sources(None))

    def guard(self, namespace: Namespace, *, managed: bool = False) -> list[str]:
        """Make the agent's ports nobody else's in this network namespace, and what arrives there its workers' alone
        (``managed``: the manager's too, at its own ports). Call it before they listen there; it stays so when the agent
        ends. Problems, if the kernel refuses.
        """
        try:
            self._doors.guard(namespace, managed=managed)
        except LoaderError as error:
            return [f"the agent's ports are NOT guarded in network namespace {namespace.inode}: {error}"]
        return self._inbound.cover(namespace) if self._inbound is not None else []

    def release(self, namespace: Namespace) -> None:
        """``unserve``, and the agent's ports are anybody's again there."""
        self.unserve(namespace.cookie)
        self._doors.release(namespace)

    def serve(
        self, cookie: int, port: int, dns_port: int = 0, *, ipv6: bool = True, source: Sources = NO_SOURCES
    ) -> None:
        """Take connections of this network namespace to ``port`` on loopback while a worker listens there
        (``WorkerSockets.meet``), and refuse them otherwise. Take DNS questions to the ``DNS_SLOTS`` ports from
        ``dns_port`` on (0: leave them alone) likewise, otherwise let them go on.

        ``ipv6``: whether the namespace has ::1; without it connections to IPv6 addresses are taken to 127.0.0.1 too.
        ``source``: the addresses of sockets that connect to a resolver before they are bound.
        """
        flags = 0 if ipv6 else ListenerFlag.V4_ONLY
        self._listeners.put(cookie, ListenerRecord(port, flags))
        if dns_port:
            self._dns_ports.put(cookie, DnsRecord(dns_port, _packed(source.v4), _packed(source.v6)))
        else:
            self._dns_ports.remove(cookie)

    def unserve(self, cookie: int) -> None:
        """Connections of enrolled processes of this network namespace to the mesh are refused."""
        self._listeners.remove(cookie)
        self._dns_ports.remove(cookie)

    def serve_only(self, cookies: set[int]) -> None:
        """``unserve`` every other namespace but this process's own: what an earlier run of the agent left."""
        served = {*self._listeners.entries(), *self._dns_ports.entries(), *self._doors.namespaces}
        for stale in served - cookies - {current_cookie()}:
            self.unserve(stale)
            self._doors.forget(stale)

    def vanished(self, cgroups: Mapping[int, str]) -> dict[int, str]:
        """Those of the cgroups of the ``resolve`` before the last that do not exist any more."""
        return {
            number: uid
            for number, uid in cgroups.items()
            if (member := self._former.get(number)) is not None and cgroup_id(member.directory) != member.cgroup
        }

    @property
    def changes(self) -> Watch:
        """Readable when the next ``resolve`` may find something else than the last."""
        return self._watch

    @property
    def directories(self) -> Mapping[int, Path]:
        """The directory of each cgroup that the last ``resolve`` found."""
        return {number: member.directory for number, member in self._members.items()}

    @property
    def destinations(self) -> Mapping[SocketAddress, Entry]:
        """Everything that is captured when an enrolled process connects to it."""
        return self._maps.destinations

    def resolve(self, local: Iterable[Workload]) -> Enrolment:
        """Find the cgroups of these workloads. Tell the workers of the result before ``apply``, so that they know whose
        connections they accept.
        """
        problems: list[str] = []
        self._tree.look_again()
        claims: dict[str, Claim] = {}
        for workload in local:
            try:
                paths = self._tree.resolve(workload.selectors)
            except (CgroupError, OSError) as error:
                problems.append(f"workload {workload.uid}: {error}")
                former = self._claims.get(workload.uid)
                claim = Claim.of(workload, {} if former is None else former.cgroups)
                # what is captured stays captured, also where the selector's user has changed meanwhile
                claims[workload.uid] = claim if former is None else replace(claim, user=former.user)
                continue
            cgroups = {number: path for path in paths if (number := cgroup_id(path)) is not None}
            claims[workload.uid] = Claim.of(workload, cgroups)
        self._claims = claims
        self._former, self._members = self._members, {}
        for claim in claims.values():
            self._members |= claim.members
        self._watch.follow(self._tree.looked_in)
        return enrol(claims.values(), (*problems, *self._tree.container_problems))

    def holds(self, number: int) -> bool:
        """Whether the kernel has the entry of this cgroup, or ``User.number``, so that it takes its connections."""
        return number in self._entered

    def apply(self, enrolment: Enrolment, destinations: DestinationPlan | None = None) -> Enrolment:
        """Put it in force (None: destinations as they are); the enrolment with every problem that there is."""
        problems = [*enrolment.problems, *self._heal()]
        wanted, touched = (None, None) if destinations is None else (destinations.entries, destinations.touched)
        users = enrolment.users
        problems += self._maps.apply(enrolment.entries(), wanted, users, keep=enrolment.partial, touched=touched)
        missing = {user.number for user in users - self._maps.users}  # they did not fit
        self._entered = frozenset(self._maps.cgroups) - missing
        problems += self._wires.follow(self._confined(enrolment.entries()), keep=enrolment.partial)
        if destinations is not None:
            self._destination_problems = destinations.problems
        if not enrolment.partial:
            problems += self._attend()
        self._problems = (*problems, *self._destination_problems)
        return replace(enrolment, problems=self._problems)

    def _confined(self, entries: Mapping[int, Entry]) -> dict[int, Path]:
        """The cgroups, and their directories, of workloads that may reach only what the registry names."""
        return {
            member.cgroup: member.directory
            for number, member in self._members.items()
            if (entry := entries.get(number)) is not None and entry.flags & CgroupFlag.REGISTRY_ONLY
        }

    def watched_by(self, listener: socket.socket) -> None:
        """This TCP listener is the manager's and ends with it. From the next ``apply`` that knows all, the kernel takes
        its being there for a word that new cgroups are noticed.
        """
        self._watcher = listener

    def seal(self) -> None:
        """Until an ``apply`` that knows all: nobody but the agent and who is enrolled already reaches mesh
        destinations.
        """
        self._maps.seal()

    def sync(self, local: Iterable[Workload], destinations: DestinationPlan | None = None) -> Enrolment:
        """``resolve`` and ``apply``: on each change of state, and every second or so for cgroups that come and go."""
        return self.apply(self.resolve(local), destinations)

    def _attend(self) -> list[str]:
        """Tell the kernel that the node is watched, once, where that matters."""
        if self._watcher is None or not self._settings.sealed_without_agent:
            return []
        try:
            self._alive.put(self._watcher.fileno())
        except LoaderError as error:
            return [
                f"{error}; the node stays sealed (sealed_without_agent): programs in no workload are refused the mesh"
            ]
        self._watcher = None
        return []

    def _heal(self) -> list[str]:
        """Attach again where somebody detached a link, or made the cgroup root anew."""
        root = cgroup_id(self._tree.root)
        if root is None:
            return [f"the agent's cgroup root {self._tree.root} is gone; nothing can be captured until it is back"]
        if len(self._links.programs(root)) == len(PROGRAMS):
            return []
        objects.install(self._pins, self._tree.root)
        self._links.close()
        self._links = PinnedLinks(self._pins)
        return ["programs had been detached from the cgroup, or it was made anew; they are attached again"]

    def status(self, companions: Iterable[int] = ()) -> CaptureStatus:
        """Everything at a glance. ``companions``: ids of programs of this agent's beside capture's own (the splice's),
        which are nobody else's either.
        """
        programs = self._links.programs(cgroup_id(self._tree.root))
        own = [*programs.values(), *companions]
        return CaptureStatus(
            features=self._features,
            pin_dir=str(self.pin_dir),
            cgroup_root=str(self._tree.root),
            bpffs_mounted=self._pins.mounted,
            programs=programs,
            cohabitants=cohabitants([self._tree.root, *self.directories.values()], own),
            counters=self._counters.read(),
            enrolled=len(self._maps.cgroups),
            destinations=len(self._maps.destinations),
            listeners={cookie: record.port for cookie, record in self._listeners.entries().items()},
            incomplete=self._maps.incomplete,
            problems=(*self._problems, *self._doors.problems),
            reserved={cookie: sorted(ports) for cookie, ports in self._doors.reserved.items()},
        )

    def counters(self) -> dict[str, int]:
        """What the programs counted since they were first loaded, by reason."""
        return self._counters.read()

    def close(self) -> None:
        """Let go; capture stays in force: without a listener, connections of enrolled workloads to the mesh are
        refused.
        """
        self._watch.close()
        self._maps.close()
        self._links.close()
        self._listeners.close()
        self._dns_ports.close()
        self._counters.close()
        self._alive.close()
        self._doors.close()
        self._wires.close()
        self._pins.close()


def _packed(ip: str) -> bytes:
    return packed_ip(ip) if ip else bytes(16)


def unload(settings: CaptureSettings) -> list[str]:
    """Remove everything that was ever pinned for this instance, and reserve its ports no more; what was removed.
    PinsBusyError while an agent runs.
    """
    made = reservations(pins.instance_path(settings.bpffs, settings.instance))
    removed = [str(path) for path in pins.remove_all(settings.bpffs, settings.instance)]
    given_back = undo_reservations(made).items()
    return removed + [f"net.ipv4.ip_local_reserved_ports {listed(ports)} of network namespace {inode}"
                      for inode, ports in given_back]  # fmt: skip
