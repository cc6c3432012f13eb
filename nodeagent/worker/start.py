"""Puts the rooms of the relay together as the manager's ``Start`` says, and opens their listeners."""

from __future__ import annotations

import logging
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom
from socket import socket

from control.wire.address import SocketAddress
from control.wire.discovery import EgressMode
from nodeagent import channel
from nodeagent.capture.askers import AskerTable
from nodeagent.capture.clients import ClientTable
from nodeagent.capture.doors import WorkerSockets
from nodeagent.capture.origdst import AcceptedSocket, FlowTable
from nodeagent.dns.io.desk import Asking, DnsContext
from nodeagent.dns.io.lookup import NameLookup, Resolvers
from nodeagent.dns.io.service import DnsService
from nodeagent.flows.balance import Balancer
from nodeagent.flows.reach.ways import Reach
from nodeagent.flows.services import Services
from nodeagent.flows.splicing import Splicing
from nodeagent.flows.tracker import Tracker
from nodeagent.http2.windows import WindowBudget
from nodeagent.identity.store import SvidStore
from nodeagent.limits.excess import Excess
from nodeagent.loader.errors import LoaderError
from nodeagent.namespaces.handle import current_cookie
from nodeagent.namespaces.peer import is_held
from nodeagent.net.poller import Poller
from nodeagent.net.sockets import make_inside, orderly_close
from nodeagent.net.tasks import Tasks
from nodeagent.policy.authorizer import Authorizer
from nodeagent.relay.departures import OrphanReaper
from nodeagent.relay.inbound import Inbound
from nodeagent.relay.outbound import OriginalDestinations, Outbound
from nodeagent.relay.plaintext import Plaintext
from nodeagent.splice.port import SplicePort
from nodeagent.splice.splicer import Splicer
from nodeagent.state.view import NodeState
from nodeagent.telemetry.accesslog import Log
from nodeagent.telemetry.flow import UNKNOWN_OWNER
from nodeagent.telemetry.metrics import FlowMetrics
from nodeagent.worker.carrier import Carrier
from nodeagent.worker.listeners import HOST_HAS_IPV6, ListenerPlan, WorkerListeners
from nodeagent.worker.namespaces import NetnsListeners

_log = logging.getLogger("nodeagent.worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerContext:
    """What a worker has from its beginning, and fills as the manager tells it."""

    loop: AbstractEventLoop
    tasks: Tasks
    poller: Poller
    state: NodeState
    certificates: SvidStore
    enrolled: Mapping[int, str]
    """Cgroup id -> uid of its workload."""
    inhabited: NetnsListeners
    metrics: FlowMetrics


def build_carrier(start: channel.Start, known: WorkerContext, log: Log) -> Carrier:
    """Everything but the listeners. LoaderError if the kernel's maps cannot be opened."""
    authorizer = Authorizer(known.state)
    excess = Excess(start.limits, known.loop.time, lambda told: _log.warning("limit: %s", told))
    tracker = Tracker(known.state, authorizer, known.metrics, log, time.time, excess)
    services = Services(
        node=start.node, tasks=known.tasks, poller=known.poller, state=known.state, authorizer=authorizer,
        tracker=tracker, certificates=known.certificates, budget=WindowBudget(),
        splicing=_splicing(start, known.loop, tracker),
        clients=ClientTable(Path(start.pin_dir)) if start.pin_dir else None, homes=known.inhabited,
    )  # fmt: skip
    dns = _dns(start, known, excess)
    sockets = WorkerSockets(Path(start.pin_dir), start.index) if start.pin_dir else None
    reach = Reach(services, Balancer(SystemRandom()))
    reach.external.lookup = NameLookup(Resolvers(Path(start.resolv_conf)).ask, known.loop.time, known.tasks.spawn)
    inbound = Inbound(services, reach)
    outbound = Outbound(services, _captured(start), known.enrolled, reach)
    if dns is not None:
        outbound.resolver = lambda transport, captured, home: dns.take(
            transport, Asking(captured.destination, captured.cgroup_id, captured.scope),
            socket if home is None else make_inside(home),
        )  # fmt: skip
    return Carrier(
        services=services,
        outbound=outbound,
        inbound=inbound,
        listeners=WorkerListeners(known.poller, sockets),
        sockets=sockets,
        inhabited=known.inhabited,
        departures=OrphanReaper(tracker, lambda: inbound.tunnels, is_held),
        dns=dns,
    )


async def open_listeners(
    start: channel.Start, carrier: Carrier, report: Callable[[tuple[channel.NamespaceState, ...]], None]
) -> None:
    """Accept connections and DNS questions, in the agent's own network namespace and in those of workloads, of which
    ``report`` hears. ListenError, DnsPortError, LoaderError.
    """
    plaintext = Plaintext(carrier.services, carrier.outbound.reach, start.inbound_port)
    if start.pin_dir:
        carrier.listeners.open_captured(carrier.outbound, start.outbound_port)
        carrier.listeners.open_plaintext(plaintext, start.inbound_port)
    if carrier.dns is not None:
        await carrier.dns.open(current_cookie(), socket, HOST_HAS_IPV6, carrier.listeners.claim(None))
    carrier.listeners.open_tunnels(carrier.inbound, start.tunnel_addresses, start.tunnel_port)
    doors = ListenerPlan(
        outbound=carrier.outbound, outbound_port=start.outbound_port, inbound=carrier.inbound,
        tunnel_port=start.tunnel_port, dns=carrier.dns, plaintext=plaintext,
        plaintext_port=start.inbound_port, sockets=carrier.sockets,
    )  # fmt: skip
    await carrier.inhabited.open(doors, carrier.departures, report)


def _captured(start: channel.Start) -> OriginalDestinations:
    return FlowTable(Path(start.pin_dir)) if start.pin_dir else _NothingCaptured()


def _dns(start: channel.Start, known: WorkerContext, excess: Excess) -> DnsService | None:
    if not start.dns_port or not start.pin_dir:
        return None
    askers = AskerTable(Path(start.pin_dir))

    def find(cookie: int, source: SocketAddress, slot: int) -> Asking | None:
        asker = askers.find(cookie, source, slot)
        return Asking(asker.resolver, asker.cgroup_id, asker.scope) if asker is not None else None

    desk = DnsContext(
        known.loop, known.state, _confinement(known),
        workload_of=lambda cgroup_id: known.enrolled.get(cgroup_id, UNKNOWN_OWNER), excess=excess,
    )  # fmt: skip
    return DnsService(desk, start.dns_port, find, known.tasks.spawn, orderly_close)


def _confinement(known: WorkerContext) -> Callable[[int], bool]:
    """Whether the processes of a cgroup may reach only what the registry names; so it is for one that nobody knows."""

    def confined(cgroup_id: int) -> bool:
        workload = known.state.workload(known.enrolled.get(cgroup_id, ""))
        return workload is None or workload.egress_mode is not EgressMode.ALLOW_ANY

    return confined


def _splicing(start: channel.Start, loop: AbstractEventLoop, tracker: Tracker) -> Splicing | None:
    if not start.splice or not start.pin_dir:
        return None
    try:
        splicing = Splicing(SplicePort(Splicer(Path(start.pin_dir))), loop, tracker.settings)
        tracker.when_switched = splicing.reconsider
        return splicing
    except LoaderError as error:
        _log.error("the splice cannot be used, same-node flows are relayed: %s", error)
        return None


class _NothingCaptured:
    """For a node that only serves tunnels."""

    def take(self, source: SocketAddress, accepted: AcceptedSocket, cookie: int | None = None) -> None:
        """Nothing was captured."""
