"""Which of the connections that stand go which way: past the mesh, through it, or to where it does not reach. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from typing import Final

from control.wire.address import SocketAddress, unpacked_ip
from nodeagent.namespaces.sockets import CLOSE_WAIT, ESTABLISHED, LISTEN, TcpSocket

_WAITING: Final = (ESTABLISHED, CLOSE_WAIT)
"""States in which a socket that nobody holds waits for accept(); in others every process has closed it."""


class Way(Enum):
    """How a connection of a workload goes."""

    PAST_OUT = "to the mesh, past it"
    """A new one to the same place would be taken."""
    PAST_IN = "from a client, past the mesh"
    """A new one to the same port would be met as PeerAuthentication says."""
    CARRIED_OUT = "to the mesh, carried by it"
    CARRIED_IN = "from a client, carried by the mesh"
    OUTSIDE = "to a place outside the mesh"

    @property
    def label(self) -> str:
        """Of metrics."""
        return {"PAST": "past", "CARRIED": "carried", "OUTSIDE": "outside"}[self.name.partition("_")[0]]


PAST: Final = frozenset({Way.PAST_OUT, Way.PAST_IN})
CARRIED: Final = frozenset({Way.CARRIED_OUT, Way.CARRIED_IN})
ALL: Final = frozenset(Way)


@dataclass(frozen=True, slots=True)
class OldConnection:
    """A connection of a workload."""

    socket: TcpSocket
    way: Way

    @property
    def local(self) -> SocketAddress:
        """The workload's end."""
        return _address(self.socket.local)

    @property
    def remote(self) -> SocketAddress:
        """The other's."""
        return _address(self.socket.remote)


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What is known of the workload and the mesh."""

    owns: Callable[[TcpSocket], bool]
    """Whether it is the workload's."""
    agent: Collection[int]
    """Inodes of the agent's own sockets: those are never anybody else's."""
    capture_port: int
    ports: Collection[int]
    """Of the workload's, those at which the mesh meets plaintext."""
    probe_ports: Collection[int]
    destinations: Collection[SocketAddress]


def standing(sockets: Iterable[TcpSocket], around: Circumstances) -> list[OldConnection]:
    """The workload's connections among all sockets of one network namespace, and how each goes."""
    everything = list(sockets)
    by_ends = {(each.local, each.remote): each for each in everything if each.state != LISTEN}
    served = {each.local[1] for each in everything if each.state == LISTEN}
    found = []
    for each in everything:
        if each.state == LISTEN or each.inode in around.agent or not around.owns(each):
            continue
        if each.inode == 0 and each.state not in _WAITING:
            continue
        way = _way(each, by_ends.get((each.remote, each.local)), served, around)
        if way is not None:
            found.append(OldConnection(each, way))
    return found


def _way(each: TcpSocket, peer: TcpSocket | None, served: Collection[int], around: Circumstances) -> Way | None:
    """None: to be left alone."""
    remote = _address(each.remote)
    inside = ip_address(remote.ip).is_loopback
    if inside and remote.port == around.capture_port:
        return Way.CARRIED_OUT
    if peer is not None and peer.inode in around.agent:
        return Way.CARRIED_IN
    if each.local[1] in served and (each.local[1] in around.ports or each.local[1] in around.probe_ports):
        if peer is not None and (peer.inode == 0 or around.owns(peer)):
            return None  # its client has closed (it may have been the agent), or it is the workload itself
        if each.local[1] in around.probe_ports and (inside or each.remote[0] == each.local[0]):
            return None
        return Way.PAST_IN if each.local[1] in around.ports else None
    if remote in around.destinations:
        return Way.PAST_OUT
    return None if inside else Way.OUTSIDE


def _address(end: tuple[bytes, int]) -> SocketAddress:
    return SocketAddress(unpacked_ip(end[0]), end[1])
