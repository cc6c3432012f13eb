"""The agent's ports in each network namespace that it serves: nobody else's, also while the agent is down.

The manager guards them (``DoorKeeper``). A worker marks its sockets before it binds them, and puts them where the
kernel looks for them (``WorkerSockets``). What is in force stays in force when the agent ends.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from control.wire.address import SocketAddress, packed_ip
from nodeagent.loader.abi import DNS_SLOTS, Crew, DoorFlag
from nodeagent.loader.doors import CrewCounts, DoorKey, DoorTable, OwnSockets, SteerKey, Steers
from nodeagent.loader.errors import BpfError, LoaderError
from nodeagent.loader.pins import instance_path
from nodeagent.namespaces.entry import NamespaceError
from nodeagent.namespaces.handle import Namespace
from nodeagent.namespaces.reserved import give_back, listed, reserve

TCP: Final = int(socket.IPPROTO_TCP)
UDP: Final = int(socket.IPPROTO_UDP)
NAMED_NAMESPACES: Final = (Path("/run/netns"), Path("/run/docker/netns"))
"""Where namespaces are that need no process in them."""
MAX_PROCESSES: Final = 1 << 20
"""Processes whose namespaces are looked at."""

_log = logging.getLogger("nodeagent.capture")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentPorts:
    """Every port of an agent."""

    steered: tuple[int, ...] = (15001, 15006, 15008)
    """TCP: what arrives goes to a worker's own socket, or nowhere."""
    managers: tuple[int, ...] = (15000, 15020, 15021)
    """TCP: the manager listens there, in the agent's own namespace."""
    dns: int = 15053
    """UDP: the first of ``DNS_SLOTS``; 0: none."""

    def doors(self, netns: int, *, managed: bool = False) -> dict[DoorKey, DoorFlag]:
        """What the kernel is told, for one namespace (its cookie); ``managed``: the manager listens in it."""
        questions = range(self.dns, self.dns + DNS_SLOTS) if self.dns else ()
        managers = DoorFlag.STEERED if managed else DoorFlag(0)
        return {
            **{DoorKey(netns, TCP, port): managers for port in self.managers},
            **{DoorKey(netns, TCP, port): DoorFlag.STEERED for port in self.steered},
            **{DoorKey(netns, UDP, port): DoorFlag.STEERED for port in questions},
        }


class DoorKeeper:
    """The manager's. Synchronous and quick; it remembers what the kernel was told."""

    def __init__(self, pin_dir: Path, ports: AgentPorts) -> None:
        self._ports = ports
        self._doors = DoorTable(pin_dir)
        self._standing: dict[int, dict[DoorKey, int]] = {}
        for key, flags in self._doors.entries().items():
            self._standing.setdefault(key.netns, {})[key] = flags
        self._problems: dict[int, str] = {}

    @property
    def problems(self) -> tuple[str, ...]:
        """What could not be done, by namespace."""
        return tuple(self._problems.values())

    @property
    def reserved(self) -> dict[int, set[int]]:
        """Cookie -> ports that were reserved there for the agent."""
        return {
            cookie: {key.port for key, flags in doors.items() if flags & DoorFlag.RESERVED}
            for cookie, doors in self._standing.items()
        }

    def guard(self, namespace: Namespace, *, managed: bool = False) -> None:
        """From now on only sockets of this agent are bound to its ports there, and the kernel chooses them for nobody.
        BpfError if the kernel has no room.
        """
        wanted = self._ports.doors(namespace.cookie, managed=managed)
        standing = self._standing.setdefault(namespace.cookie, {})
        for key, flags in wanted.items():
            self._put(key, flags | (standing.get(key, 0) & DoorFlag.RESERVED))
        for key in standing.keys() - wanted.keys():
            self._doors.remove(key)
            del standing[key]
        self._reserve(namespace, wanted)

    def _put(self, key: DoorKey, flags: int) -> None:
        self._doors.put(key, flags)
        self._standing[key.netns][key] = flags

    def _reserve(self, namespace: Namespace, wanted: dict[DoorKey, DoorFlag]) -> None:
        ports = {key.port for key in wanted}
        try:
            added = reserve(namespace, ports)
        except (OSError, NamespaceError, ValueError) as error:
            self._problems[namespace.cookie] = (
                f"network namespace {namespace.inode}: the agent's ports cannot be reserved ({error}): the kernel may"
                " give one of them to a program that binds to none, which is in the agent's way then; set"
                f" net.ipv4.ip_local_reserved_ports={listed(ports)} there"
            )
            _log.warning("%s", self._problems[namespace.cookie])
            return
        self._problems.pop(namespace.cookie, None)
        if added:
            _log.info(
                "network namespace %d: reserved ports %s until 'nodeagent unload' (net.ipv4.ip_local_reserved_ports)",
                namespace.inode, listed(added),
            )  # fmt: skip
        for key, flags in wanted.items():
            if key.port in added:
                self._put(key, flags | DoorFlag.RESERVED)

    def release(self, namespace: Namespace) -> None:
        """The ports are anybody's again there, and as reserved as they were."""
        mine = self._standing.get(namespace.cookie, {})
        with contextlib.suppress(OSError, NamespaceError, ValueError):  # the namespace is gone, and what is in it
            give_back(namespace, {key.port for key, flags in mine.items() if flags & DoorFlag.RESERVED})
        self.forget(namespace.cookie)

    def forget(self, cookie: int) -> None:
        """Of a namespace that is gone."""
        for key in self._standing.pop(cookie, {}):
            self._doors.remove(key)
        self._problems.pop(cookie, None)

    @property
    def namespaces(self) -> set[int]:
        """Cookies of those that are guarded."""
        return set(self._standing)

    def close(self) -> None:
        """Let go; what is in force stays."""
        self._doors.close()


class SocketMarks:
    """Marks sockets as the agent's own, by which they may be bound to its ports. One thread."""

    def __init__(self, pin_dir: Path) -> None:
        self._own = OwnSockets(pin_dir)

    def mark(self, descriptor: int) -> None:
        """Before ``bind``. OSError if the kernel does not take it."""
        try:
            self._own.put(descriptor)
        except BpfError as error:
            raise OSError(error.code, f"a socket cannot be marked as the agent's own: {error}") from error

    def close(self) -> None:
        """Close the map; marks go with their sockets."""
        self._own.close()


def mark_where_guarded(bpffs: Path, instance: str, descriptor: int) -> None:
    """As ``SocketMarks.mark``, for a socket that is bound before capture is opened: an earlier run of this instance may
    have left its ports guarded.
    """
    try:
        marks = SocketMarks(instance_path(bpffs, instance))
    except LoaderError:
        return  # nothing is pinned: nothing is guarded
    with contextlib.closing(marks):
        marks.mark(descriptor)


class WorkerSockets:
    """A worker's. One thread; some system calls a listener."""

    def __init__(self, pin_dir: Path, worker: int) -> None:
        self._marks = SocketMarks(pin_dir)
        self._steers = Steers(pin_dir)
        self._crew = CrewCounts(pin_dir)
        self._worker = worker
        self.mark = self._marks.mark

    def meet(self, netns_cookie: int, at: SocketAddress, descriptor: int, *, udp: bool = False) -> None:
        """Have the kernel give what arrives at this address of the namespace to this socket, which listens, until it is
        closed. It need not be bound to that address. OSError if there is no room.
        """
        self._put(SteerKey(netns_cookie, packed_ip(at.ip), at.port, self._worker, UDP if udp else TCP), descriptor)

    def meet_plaintext(self, netns_cookie: int, family: int, descriptor: int) -> None:
        """The same for what arrives in this family (4 or 6) at ports of workloads whose mode is PERMISSIVE."""
        everywhere = packed_ip("::" if family == 6 else "0.0.0.0")
        self._put(SteerKey(netns_cookie, everywhere, 0, self._worker, TCP), descriptor)

    def _put(self, key: SteerKey, descriptor: int) -> None:
        try:
            self._steers.put(key, descriptor)
        except BpfError as error:
            raise OSError(error.code or errno.ENOSPC, f"the kernel does not take a listener: {error}") from error

    def spread(self, workers: int) -> None:
        """New connections go to the first so many workers."""
        self._crew.put(Crew.SPREAD, workers)

    def close(self) -> None:
        """Close the maps; sockets stay in them."""
        for view in (self._marks, self._steers, self._crew):
            view.close()


def reservations(pin_dir: Path) -> dict[int, set[int]]:
    """Cookie -> ports that an agent reserved there; empty where nothing is pinned."""
    try:
        doors = DoorTable(pin_dir)
    except LoaderError:
        return {}
    with contextlib.closing(doors):
        found: dict[int, set[int]] = {}
        for key, flags in doors.entries().items():
            if flags & DoorFlag.RESERVED:
                found.setdefault(key.netns, set()).add(key.port)
        return found


def undo_reservations(made: dict[int, set[int]]) -> dict[int, set[int]]:
    """Give them back in all of these namespaces that can be found; those in which that was done."""
    done: dict[int, set[int]] = {}
    if not made:
        return done
    for namespace in _namespaces():
        with contextlib.closing(namespace):
            if namespace.cookie in made:
                with contextlib.suppress(OSError, NamespaceError, ValueError):
                    give_back(namespace, made[namespace.cookie])
                    done[namespace.inode] = made[namespace.cookie]
        if len(done) == len(made):
            break
    return done


def _namespaces() -> Iterator[Namespace]:
    """Every network namespace that a process is in, or that has a name; the caller closes them."""
    seen: set[int] = set()
    processes = (Path("/proc") / name / "ns/net" for name in ["self", *_pids()])
    named = (path for directory in NAMED_NAMESPACES if directory.is_dir() for path in directory.iterdir())
    for path in (*processes, *named):
        with contextlib.suppress(OSError, NamespaceError):
            if (inode := path.stat().st_ino) not in seen:
                seen.add(inode)
                yield Namespace.open(path)


def _pids() -> list[str]:
    return [path.name for path in Path("/proc").iterdir() if path.name.isdigit()][:MAX_PROCESSES]
