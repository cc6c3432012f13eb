"""Connections whose workload went away under them: reset, each with its reason; what was merely closed is delivered.

A program that ended in order has closed its sockets: what it sent is still on its way, and its flow ends by itself.
Only a connection that some process still holds, outside of the cgroup or namespace that gave it its identity, is cut.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Final

from nodeagent.flows.app import AppLeg
from nodeagent.flows.flow import Flow
from nodeagent.flows.tracker import Tracker
from nodeagent.namespaces.handle import Namespace
from nodeagent.net.sockets import local_address, remote_address
from nodeagent.reasons import Reason
from nodeagent.relay.inbound import TunnelServer
from nodeagent.relay.outbound import CapturedLeg

Address = tuple[str, int]
Holding = Callable[[Namespace | None, Address, Address], bool]
"""``namespaces.peer.is_held``."""
LINGER_SECONDS: Final = 5.0
"""What still stands in a namespace so long after its last enrolled process has left is cut, held or not."""

_log = logging.getLogger("nodeagent.relay")


class OrphanReaper:
    """Of one worker."""

    def __init__(self, tracker: Tracker, tunnels: Callable[[], Iterable[TunnelServer]], is_held: Holding) -> None:
        self._tracker = tracker
        self._tunnels = tunnels
        self._is_held = is_held

    def cgroups(self, gone: Mapping[int, str], homeless: Collection[str]) -> int:
        """These cgroups were removed; ``homeless`` are the workloads that have none left. How many flows were cut."""
        cut = 0
        for flow, leg in self._legs():
            if isinstance(leg, CapturedLeg):
                lost = leg.cgroup in gone
            else:
                lost = flow.record.destination is not None and flow.record.destination.uid in homeless
            if lost and not flow.done and self._held(leg):
                flow.cut(Reason.CGROUP_GONE, "a process holds it that is in no cgroup of the workload any more")
                cut += 1
        return cut

    def namespaces(self, gone: Collection[Namespace], *, last: bool) -> int:
        """No enrolled process is in them any more; ``last``: since LINGER_SECONDS. How many flows were cut."""
        cut = 0
        for flow, leg in self._legs():
            if leg.home in gone and not flow.done and (last or self._held(leg)):
                detail = f"network namespace {leg.home.inode} has no enrolled process any more" if leg.home else ""
                flow.cut(Reason.NAMESPACE_GONE, detail)
                cut += 1
        for tunnel in tuple(self._tunnels()):
            if tunnel.home in gone:
                if last or not tunnel.connection.streams:
                    tunnel.fail(Reason.NAMESPACE_GONE, "its network namespace has no enrolled process any more")
                else:
                    tunnel.drain()
        return cut

    def inhabited(self) -> set[Namespace]:
        """Those that a flow or a tunnel has a socket in."""
        homes = {leg.home for _, leg in self._legs()} | {tunnel.home for tunnel in self._tunnels()}
        return {home for home in homes if home is not None}

    def _legs(self) -> Iterator[tuple[Flow, AppLeg]]:
        for flow in tuple(self._tracker.flows):
            for leg in (flow.source, flow.destination):
                if isinstance(leg, AppLeg):
                    yield flow, leg

    def _held(self, leg: AppLeg) -> bool:
        if leg.transport is None:
            return False
        theirs, ours = remote_address(leg.transport), local_address(leg.transport)
        if theirs is None or ours is None:
            return False
        try:
            return self._is_held(leg.home, (theirs.ip, theirs.port), (ours.ip, ours.port))
        except OSError as error:  # who cannot be asked about is cut: nothing may go on without an identity
            _log.error("it cannot be told whether anybody holds %s: %s", theirs, error)
            return True
