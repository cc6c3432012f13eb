"""Ending connections of a workload that were made when it was in the mesh otherwise than now: what an operator asks for
with ``nodeagent reset`` or the label ``nodemesh.io/old-connections``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from control.wire.address import SocketAddress
from nodeagent.capture.holders import Holders, namespaces_of, socket_inodes
from nodeagent.capture.standing import Circumstances, OldConnection, Way, standing
from nodeagent.namespaces.entry import NamespaceError
from nodeagent.namespaces.handle import Namespace
from nodeagent.namespaces.sockets import CannotEndError, end, tcp_sockets


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The workload whose connections are looked at."""

    uid: str
    directories: Mapping[int, Path]
    """Its cgroups."""
    ports: Collection[int]
    """Those at which the mesh meets plaintext."""
    probe_ports: Collection[int] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetContext:
    """What the agent knows of the node."""

    enrolled: Mapping[int, str]
    """Cgroup id or ``User.number`` -> uid of the workload, of all of them."""
    destinations: Collection[SocketAddress]
    capture_port: int
    agent: Callable[[], Collection[int]]
    """Its processes now."""


@dataclass(frozen=True, slots=True)
class Told:
    """What became of one connection."""

    connection: OldConnection
    pid: int
    """Who holds it; 0 where nobody does yet."""
    ended: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one look. ``trouble``: why what is not ended was not, or could not be looked at."""

    connections: tuple[Told, ...]
    trouble: str = ""


class UnseenAgentError(Exception):
    """The agent's own sockets cannot be told from others': nothing may be ended."""


def reset(subject: Subject, around: ResetContext, ways: Collection[Way], *, dry_run: bool = False) -> Outcome:
    """End the workload's connections that go one of these ways, in every network namespace in which it is.

    OSError, or UnseenAgentError, if it cannot be known which they are: nothing more is ended then.
    """
    holders = Holders(subject.uid, around.enrolled, subject.directories)
    holdings = holders.look()
    told: list[Told] = []
    trouble = ""
    for path in namespaces_of(holdings.processes).values():
        try:
            namespace = Namespace.open(path)
        except NamespaceError:
            continue  # the thread has ended meanwhile
        try:
            sockets = tcp_sockets(namespace)
            circumstances = Circumstances(
                owns=holders.owns, agent=_of_agent(around.agent()), capture_port=around.capture_port,
                ports=subject.ports, probe_ports=subject.probe_ports, destinations=around.destinations,
            )  # fmt: skip
            found = [each for each in standing(sockets, circumstances) if each.way in ways]
            ended = set() if dry_run else {each.identity for each in end(namespace, (each.socket for each in found))}
        except CannotEndError as error:
            ended, trouble = set(), str(error)
        finally:
            namespace.close()
        told += [Told(each, holdings.inodes.get(each.socket.inode, 0), each.socket.identity in ended) for each in found]
    return Outcome(tuple(told), trouble)


def _of_agent(processes: Collection[int]) -> set[int]:
    """Inodes of the agent's sockets; asked for after the sockets of a namespace, so that none among those is missed."""
    inodes: set[int] = set()
    for pid in processes:
        own = socket_inodes(pid)
        if not own:
            raise UnseenAgentError(
                f"process {pid} of the agent cannot be seen from here (it ended, or is in another PID namespace), so"
                " its connections could not be told from others; nothing was reset: try again where the agent runs"
            )
        inodes |= own
    return inodes
