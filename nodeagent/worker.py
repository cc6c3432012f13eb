"""A worker: the composition root of the process that carries connections. Run as ``python -m nodeagent.worker
--channel-fd N``.

It knows what the manager tells it over the channel and nothing else: no files, no control, no environment. It dies
with the manager.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import resource
import signal
import socket
import sys
import time
from asyncio import AbstractEventLoop, Event, Protocol, Server, Transport, get_running_loop
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Final, cast

import uvloop

from control.wire.address import SocketAddress
from nodeagent import channel
from nodeagent.capture.clients import ClientTable
from nodeagent.capture.origdst import Accepted, FlowTable
from nodeagent.identity.keys import load_svid
from nodeagent.identity.store import SvidStore
from nodeagent.loader.errors import LoaderError
from nodeagent.relay.authorizer import Authorizer
from nodeagent.relay.balance import Balancer
from nodeagent.relay.io.inbound import Inbound
from nodeagent.relay.io.outbound import OriginalDestinations, Outbound
from nodeagent.relay.io.services import Services
from nodeagent.relay.io.sockets import ListenError, listen, spread
from nodeagent.relay.io.splicing import Splicing
from nodeagent.relay.io.tasks import Tasks
from nodeagent.relay.io.tunnel import TunnelEnd
from nodeagent.relay.protocol.windows import WindowBudget
from nodeagent.relay.status import flow_rows, tunnel_rows
from nodeagent.relay.tracker import Tracker
from nodeagent.splice.port import SplicePort
from nodeagent.splice.splicer import Splicer
from nodeagent.state.view import NodeState, OutOfOrderError
from nodeagent.telemetry.accesslog import Log, NoLog, open_log
from nodeagent.telemetry.metrics import FlowMetrics

if TYPE_CHECKING:
    from asyncio import BaseTransport

TICK_SECONDS: Final = 1.0
LAST_WORDS_SECONDS: Final = 2.0
"""For tunnels to say goodbye, after the last connection of a worker that was drained."""
EXIT_DEFECT: Final = 70
EXIT_CANNOT_LISTEN: Final = 78
LARGEST_KEPT_BUFFER: Final = 4 * 1024 * 1024
KEPT_MEMORY: Final = 16 * 1024 * 1024
_PR_SET_PDEATHSIG: Final = 1
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
HOST_HAS_IPV6: Final = Path("/proc/sys/net/ipv6").exists()

_log = logging.getLogger("nodeagent.worker")


class Worker(Protocol):
    """One worker; the protocol of its channel to the manager."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.loop = loop
        self.stopped = Event()
        self.exit_code = 0
        self.certificates = SvidStore()
        self.state = NodeState()
        self.authorizer = Authorizer(self.state)
        self.enrolled: dict[int, str] = {}
        self.tasks = Tasks(loop)
        self.random = SystemRandom()
        self._unpacker = channel.Unpacker()
        self._transport: Transport | None = None
        self._servers: list[Server] = []
        self._spread = 1
        self._metrics = FlowMetrics(loop.time)
        self._log: Log = NoLog()
        self._services: Services | None = None
        self._outbound: Outbound | None = None
        self._inbound: Inbound | None = None

    # --- the channel ---

    def connection_made(self, transport: BaseTransport) -> None:
        """The manager is there."""
        self._transport = cast(Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Messages of the manager."""
        try:
            for message in self._unpacker.feed(data):
                self._on_message(message)
        except Exception:  # a worker that misunderstood the manager must not decide by half of what it said
            _log.exception("defect: a message of the manager could not be carried out; the worker stops")
            self._stop(EXIT_DEFECT)

    def connection_lost(self, exc: Exception | None) -> None:
        """The manager is gone: nobody tells this worker about policy any more."""
        self._stop(0)

    def _send(self, message: channel.Message) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(channel.pack(message))

    def _on_message(self, message: channel.Message) -> None:
        match message:
            case channel.Start():
                self.tasks.spawn(self._start_or_stop(message), "start")
            case channel.StateBatch():
                self._on_batch(message)
            case channel.Svid():
                self._on_svid(message)
            case channel.Enrolment():
                self.enrolled.clear()
                self.enrolled.update({int(cgroup): uid for cgroup, uid in message.cgroups.items()})
            case channel.Collect():
                self._collect(message.number)
            case channel.ListFlows():
                self._list_flows(message.number)
            case channel.Spread():
                self._spread = message.workers
                self._spread_out()
            case channel.Drain():
                self.tasks.spawn(self._drain(message.seconds), "drain")
            case _:
                raise channel.ChannelError(f"{type(message).__name__} is not for a worker")

    def _on_batch(self, message: channel.StateBatch) -> None:
        try:
            applied = self.state.apply(message.batch)
        except OutOfOrderError:
            _log.exception("defect: the manager sent batches out of order; the worker stops")
            self._stop(EXIT_DEFECT)
            return
        bundles = [uid for kind, uid in applied.changed if kind == "bundle"]
        for trust_domain in bundles:
            self._take_bundle(trust_domain)
        workloads = {uid for kind, uid in applied.changed if kind == "workload"}
        if self._services is not None and self._outbound is not None and self._inbound is not None:
            cut = self._services.tracker.recheck(applied.changed)
            if cut:
                _log.info("revision %d: %d open connections were reset", message.batch.revision, cut)
            self._outbound.pool.drop(workloads)
            if bundles:
                self._refresh()
        gone = {uid for kind, uid in applied.changed if kind == "workload" and self.state.workload(uid) is None}
        if self._outbound is not None:
            for uid in gone:
                self._outbound.balancer.forget(uid)
        self._metrics.forget(gone)
        self._send(channel.Applied(revision=message.batch.revision, rejected=applied.rejected))

    def _take_bundle(self, trust_domain: str) -> None:
        bundle = self.state.bundle(trust_domain)
        try:
            if bundle is None:
                self.certificates.remove_bundle(trust_domain)
            else:
                self.certificates.set_bundle(trust_domain, bundle.certificates)
        except ValueError as error:
            _log.error("the trust bundle of %s cannot be used, nobody of it is trusted: %s", trust_domain, error)

    def _on_svid(self, message: channel.Svid) -> None:
        try:
            if message.chain:
                self.certificates.put(load_svid(message.chain, message.key))
            else:
                self.certificates.remove(message.identity)
        except Exception as error:
            _log.error("the SVID of %s cannot be used: %s", message.identity, error)
            self.certificates.remove(message.identity)
        self._refresh()

    def _refresh(self) -> None:
        if self._outbound is not None and self._inbound is not None:
            self._outbound.pool.refresh()
            self._inbound.refresh()

    # --- life ---

    async def _start_or_stop(self, start: channel.Start) -> None:
        try:
            await self._start(start)
        except ListenError as error:
            _log.error("%s", error)
            self._stop(EXIT_CANNOT_LISTEN)
        except Exception:  # the access log, the pinned maps: a worker that is not ready and lives serves nobody
            _log.exception("this worker cannot start")
            self._stop(EXIT_DEFECT)

    async def _start(self, start: channel.Start) -> None:
        logging.getLogger().setLevel(start.log_level.upper())
        self._log = open_log(start.access_log, self.loop.call_soon, start.cluster)
        tracker = Tracker(self.state, self.authorizer, self._metrics, self._log, time.time)
        self._services = services = Services(
            node=start.node, tasks=self.tasks, state=self.state, authorizer=self.authorizer, tracker=tracker,
            certificates=self.certificates, budget=WindowBudget(), splicing=self._splicing(start),
            clients=ClientTable(Path(start.pin_dir)) if start.pin_dir else None,
        )  # fmt: skip
        captured: OriginalDestinations = FlowTable(Path(start.pin_dir)) if start.pin_dir else _NothingCaptured()
        self._outbound = outbound = Outbound(services, captured, self.enrolled, Balancer(self.random))
        self._inbound = inbound = Inbound(services)
        if start.pin_dir:
            for ip in ("127.0.0.1", "::1"):
                await self._listen_captured(SocketAddress(ip, start.outbound_port), outbound)
        for ip in start.tunnel_addresses:
            address = SocketAddress(ip, start.tunnel_port)
            self._servers.append(await listen(self.loop, inbound.tunnel, address, reset_on_close=False))
        self._spread_out()
        tracker.when_doubled = self._report_load
        self.loop.call_later(TICK_SECONDS, self._tick)
        self._send(channel.Ready(pid=os.getpid()))

    def _splicing(self, start: channel.Start) -> Splicing | None:
        if not start.splice or not start.pin_dir:
            return None
        try:
            return Splicing(SplicePort(Splicer(Path(start.pin_dir))), self.loop)
        except LoaderError as error:
            _log.error("the splice cannot be used, same-node flows are relayed: %s", error)
            return None

    async def _listen_captured(self, address: SocketAddress, outbound: Outbound) -> None:
        try:
            self._servers.append(await listen(self.loop, outbound.leg, address, reset_on_close=True))
        except ListenError:
            if address.family == 4 or HOST_HAS_IPV6:
                raise
            _log.warning("this host has no IPv6: only IPv4 connections are captured")

    def _spread_out(self) -> None:
        for server in self._servers:
            spread(server, self._spread)

    def _report_load(self) -> None:
        flows = len(self._services.tracker) if self._services is not None else 0
        self._send(channel.Load(flows=flows, cpu_seconds=time.process_time()))

    def _tick(self) -> None:
        now = self.loop.time()
        self._report_load()
        if self._outbound is not None and self._inbound is not None:
            self._outbound.pool.tick(now)
            self._inbound.tick(now)
        self.loop.call_later(TICK_SECONDS, self._tick)

    async def _drain(self, seconds: float) -> None:
        services = self._services
        for server in self._servers:
            server.close()
        cut = 0
        if services is not None and self._inbound is not None and self._outbound is not None:
            services.drains = True
            tunnels = [*self._outbound.pool, *self._inbound.tunnels]
            self._inbound.drain()
            cut = await self._wait_for_flows(services.tracker, seconds)
            self._outbound.pool.drain()
            await self._wait_for_tunnels({*tunnels, *self._outbound.pool, *self._inbound.tunnels})
        self._send(channel.Drained(cut=cut))
        self._stop(0)

    async def _wait_for_flows(self, tracker: Tracker, seconds: float) -> int:
        empty = Event()
        tracker.when_empty = empty.set
        timer = self.loop.call_later(seconds, empty.set)
        if len(tracker):
            await empty.wait()
        timer.cancel()
        return tracker.shut_down()

    async def _wait_for_tunnels(self, tunnels: set[TunnelEnd]) -> None:
        """The last bytes of connections that are over may still wait in their tunnels."""
        left = {tunnel for tunnel in tunnels if tunnel.transport is not None}
        empty = Event()

        def gone(tunnel: TunnelEnd) -> None:
            left.discard(tunnel)
            if not left:
                empty.set()

        for tunnel in left:
            tunnel.when_gone = gone
        if left:
            timer = self.loop.call_later(LAST_WORDS_SECONDS, empty.set)
            await empty.wait()
            timer.cancel()

    def close(self) -> None:
        """Write what the access log still holds."""
        self._log.close()

    def _stop(self, code: int) -> None:
        self.exit_code = self.exit_code or code
        self.stopped.set()

    # --- questions ---

    def _collect(self, number: int) -> None:
        if self._services is not None and self._outbound is not None and self._inbound is not None:
            self._services.tracker.report_live()
            self._metrics.gauge("nodemesh_live_flows", len(self._services.tracker))
            self._metrics.gauge("nodemesh_tunnels", len(self._outbound.pool), direction="outbound")
            self._metrics.gauge("nodemesh_tunnels", len(self._inbound.tunnels), direction="inbound")
            if self._services.splicing is not None:
                self._metrics.gauge("nodemesh_spliceable_flows", len(self._services.splicing))
                self._metrics.gauge("nodemesh_splice_excluded_workloads", len(self._services.splicing.excluded))
            self._metrics.counter("nodemesh_access_log_dropped_total", self._log.dropped)
        self._send(channel.Collected(number=number, samples=self._metrics.news()))

    def _list_flows(self, number: int) -> None:
        if self._services is None or self._outbound is None or self._inbound is None:
            self._send(channel.Flows(number=number))
            return
        flows, truncated = flow_rows(self._services.tracker)
        tunnels = tunnel_rows([*self._outbound.pool, *self._inbound.tunnels])
        self._send(channel.Flows(number=number, flows=flows, tunnels=tunnels, truncated=truncated))


class _NothingCaptured:
    """For a node that only serves tunnels."""

    def take(self, source: SocketAddress, accepted: Accepted) -> None:
        """Nothing was captured."""


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, however it ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it ended before we asked
        sys.exit(0)


def keep_freed_memory() -> None:
    """Have malloc keep some freed memory: buffers of bulk transfers would be mapped and unmapped each time otherwise.

    What is kept is bounded; above it memory goes back to the kernel.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, LARGEST_KEPT_BUFFER)
    libc.mallopt(_M_TRIM_THRESHOLD, KEPT_MEMORY)


def raise_descriptor_limit() -> None:
    """As many descriptors as the host allows: a flow takes two."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def run(channel_fd: int) -> int:
    """Serve until the manager says drain or goes away; the exit status."""
    loop = get_running_loop()
    pair = socket.socket(fileno=channel_fd)
    _, worker = await loop.create_connection(lambda: Worker(loop), sock=pair)
    await worker.stopped.wait()
    worker.close()
    return worker.exit_code


def main(argv: list[str] | None = None) -> int:
    """The process."""
    parser = argparse.ArgumentParser(prog="nodeagent.worker", description="carries connections for a nodeagent")
    parser.add_argument("--channel-fd", type=int, required=True, help="the socket to the manager")
    parser.add_argument("--parent", type=int, default=0, help="the manager's process id (default: the parent)")
    options = parser.parse_args(argv)
    die_with_parent(options.parent or os.getppid())
    raise_descriptor_limit()
    keep_freed_memory()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # meant for the manager, which drains us over the channel
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s worker %(process)d %(message)s")
    return uvloop.run(run(options.channel_fd))


if __name__ == "__main__":
    sys.exit(main())
