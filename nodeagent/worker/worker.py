"""A worker's end of the channel: hands each message of the manager to the part that it concerns.

Messages are carried out in the order in which they came, a large batch of state in slices between the turns of the
loop. So what follows a batch (an enrolment, a network namespace) is never in force before the batch. Questions of the
manager and the end of the worker (PROMPT) depend on no state and wait for none.
"""

from __future__ import annotations

import logging
import os
from asyncio import AbstractEventLoop, Event, Protocol, TimerHandle, Transport, sleep
from itertools import islice
from typing import TYPE_CHECKING, Final, cast

from nodeagent import channel
from nodeagent.collector import Collector
from nodeagent.dns.io.service import DnsPortError
from nodeagent.identity.keys import load_svid
from nodeagent.identity.store import SvidStore
from nodeagent.net.accepting import ListenError
from nodeagent.net.poller import Poller
from nodeagent.net.tasks import Tasks
from nodeagent.slices import Slices
from nodeagent.state.intake import Intake
from nodeagent.state.targets import Applied
from nodeagent.state.view import NodeState
from nodeagent.steps import Steps
from nodeagent.telemetry.accesslog import Log, NoLog, open_log
from nodeagent.telemetry.metrics import FlowMetrics
from nodeagent.worker.carrier import Carrier
from nodeagent.worker.drain import drain
from nodeagent.worker.namespaces import NetnsListeners
from nodeagent.worker.start import WorkerContext, build_carrier, open_listeners

if TYPE_CHECKING:
    from asyncio import BaseTransport

TICK_SECONDS: Final = 1.0
END_SECONDS: Final = 1.0
"""How long tasks may take to end after they were cancelled."""
CHECKED_AT_ONCE: Final = 256
"""Changed objects whose connections are looked at in one step."""
PROMPT: Final = (channel.Collect, channel.ListFlows, channel.Drain)
EXIT_DEFECT: Final = 70
EXIT_CANNOT_LISTEN: Final = 78

_log = logging.getLogger("nodeagent.worker")


class Worker(Protocol):
    """One worker; the protocol of its channel to the manager."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.loop = loop
        self.stopped = Event()
        self.exit_code = 0
        self.certificates = SvidStore()
        self.state = NodeState()
        self.enrolled: dict[int, str] = {}
        self.tasks = Tasks(loop)
        self.poller = Poller(loop)
        self.inhabited = NetnsListeners(loop, self.tasks, self.poller)
        self._unpacker = channel.Unpacker()
        self._slices = Slices(loop.call_soon)
        self._slices.on_error = self._on_defect
        self._intake: Intake | None = None
        self._collector = Collector()
        self._transport: Transport | None = None
        self._spread = 1
        self._exclusions = channel.SpliceExclusions(workloads={})
        self._metrics = FlowMetrics(loop.time)
        self._log: Log = NoLog()
        self._start: channel.Start | None = None
        self._carrier: Carrier | None = None
        """None until the manager has said how to run."""
        self._timer: TimerHandle | None = None

    # --- the channel ---

    def connection_made(self, transport: BaseTransport) -> None:
        """The manager is there."""
        self._transport = cast(Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Messages of the manager."""
        try:
            for message in self._unpacker.feed(data):
                if isinstance(message, PROMPT):
                    self._on_message(message)
                else:
                    self._slices.put(self._carry_out(message))
        except Exception as error:
            self._on_defect(error)

    def _on_defect(self, error: Exception) -> None:
        """Stop: a worker that misunderstood the manager must not decide by half of what the manager said."""
        _log.error("defect: a message of the manager cannot be carried out; the worker stops", exc_info=error)
        self._stop(EXIT_DEFECT)

    def connection_lost(self, exc: Exception | None) -> None:
        """The manager is gone: nobody tells this worker about policy any more."""
        self._stop(0)

    def _send(self, message: channel.Message) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(channel.pack(message))

    def _carry_out(self, message: channel.Message) -> Steps[None]:
        if isinstance(message, channel.StateBatch):
            yield from self._on_batch(message)
        else:
            self._on_message(message)

    def _on_message(self, message: channel.Message) -> None:
        match message:
            case channel.Start():
                self._prepare(message)
            case channel.Begin():
                self.tasks.spawn(self._open_or_stop(), "open")
            case channel.Svid():
                self._on_svid(message)
            case channel.EnrolmentUpdate() | channel.Departed() | channel.Namespaces():
                self._on_whereabouts(message)
            case channel.SpliceExclusions():
                self._exclusions = message
                if self._carrier is not None:
                    self._carrier.exclude(self._exclusions.workloads, self._exclusions.everybody)
            case channel.Collect() | channel.ListFlows():
                self._answer(message)
            case channel.Spread():
                self._spread = message.workers
                if self._carrier is not None:
                    self._carrier.spread(self._spread)
            case channel.Drain():
                self.tasks.spawn(self._drain(message.seconds), "drain")
            case _:
                _log.error("the manager sent %s, which only workers send; it is ignored", type(message).__name__)

    def _on_whereabouts(self, message: channel.EnrolmentUpdate | channel.Departed | channel.Namespaces) -> None:
        """Of the workloads of this node: their cgroups, and the network namespaces that their processes are in."""
        match message:
            case channel.EnrolmentUpdate():
                self.enrolled.clear()
                self.enrolled.update({int(cgroup): uid for cgroup, uid in message.cgroups.items()})
                self._send(channel.Heard(edition=message.edition))
            case channel.Departed():
                gone = {int(cgroup): uid for cgroup, uid in message.cgroups.items()}
                if self._carrier is not None and (cut := self._carrier.departed(gone, self.enrolled)):
                    _log.warning("%d connections of cgroups that were removed were reset", cut)
            case channel.Namespaces():
                self.inhabited.tell(message)

    def _on_batch(self, message: channel.StateBatch) -> Steps[None]:
        batch = message.batch
        if self._intake is None:
            self._intake = Intake(self.state, batch, compared=True)  # the manager compared it with what it sent before
        if message.more:
            self._collector.rest()
        yield from self._intake.read(batch.changes)
        if message.more:
            return
        intake, self._intake = self._intake, None
        first = not self.state.ready
        applied = yield from intake.commit()
        self._collector.applied(len(applied.changed), first=first)
        yield from self._check_flows(applied, batch.revision)
        self._send(channel.BatchApplied(revision=batch.revision, rejected=applied.rejected))
        self._slices.later(intake.dismantle())

    def _check_flows(self, applied: Applied, revision: int) -> Steps[None]:
        """Check live connections against the state that is in force now, in the order of the batch."""
        cut = 0
        changed = iter(applied.changed)
        while some := frozenset(islice(changed, CHECKED_AT_ONCE)):
            for kind, uid in some:
                if kind == "bundle":
                    self._take_bundle(uid)
            gone = {uid for kind, uid in some if kind == "workload" and self.state.workload(uid) is None}
            if self._carrier is not None:
                cut += yield from self._carrier.applied(some)
                self._carrier.forget(gone)
            self._metrics.forget(gone)
            if len(some) == CHECKED_AT_ONCE:
                yield
        if cut:
            _log.info("revision %d: %d open connections were reset", revision, cut)

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
        if self._carrier is not None:
            self._carrier.refresh()

    def _answer(self, question: channel.Collect | channel.ListFlows) -> None:
        carrier, number = self._carrier, question.number
        if isinstance(question, channel.Collect):
            self._collect(number)
        else:
            self._send(carrier.flows(number) if carrier is not None else channel.FlowList(number=number))

    def _collect(self, number: int) -> None:
        if self._carrier is not None:
            self._carrier.measure(self._metrics)
            self._metrics.counter("nodemesh_access_log_dropped_total", self._log.dropped)
        for kind, count in self._unpacker.ignored.items():
            self._metrics.counter("nodemesh_channel_messages_ignored_total", count, message=kind)
        self._send(channel.collected(number, self._metrics.news()))

    # --- life ---

    def _prepare(self, start: channel.Start) -> None:
        """Build everything but the listeners: from now on it hears of every change."""
        self._start = start
        try:
            logging.getLogger().setLevel(start.log_level.upper())
            self._log = open_log(start.access_log, self.loop.call_soon, start.cluster, start.limits)
            known = WorkerContext(
                loop=self.loop, tasks=self.tasks, poller=self.poller, state=self.state,
                certificates=self.certificates, enrolled=self.enrolled, inhabited=self.inhabited,
                metrics=self._metrics,
            )  # fmt: skip
            self._carrier = carrier = build_carrier(start, known, self._log)
        except Exception:  # the access log, the pinned maps: a worker that is not ready and lives serves nobody
            self._cannot_start()
            return
        carrier.spread(self._spread)
        carrier.exclude(self._exclusions.workloads, self._exclusions.everybody)
        if carrier.services.splicing is not None:
            carrier.services.splicing.on_stuck = lambda stuck: self._send(channel.SpliceStuck(workloads=stuck))

    async def _open_or_stop(self) -> None:
        if self._start is None or self._carrier is None:  # it stops already: it could not be prepared
            return
        try:
            await self._open(self._start, self._carrier)
        except (ListenError, DnsPortError) as error:
            _log.error("%s", error)
            self._stop(EXIT_CANNOT_LISTEN)
        except Exception:
            self._cannot_start()

    async def _open(self, start: channel.Start, carrier: Carrier) -> None:
        """Accept connections, and say so last: whoever hears Ready may send connections to every listener."""
        await open_listeners(start, carrier, lambda states: self._send(channel.Inside(states=states)))
        carrier.services.tracker.when_doubled = lambda: self._send(carrier.load())
        self._timer = self.loop.call_later(TICK_SECONDS, self._tick, carrier)
        self._send(channel.Ready(pid=os.getpid()))

    def _cannot_start(self) -> None:
        _log.exception("this worker cannot start")
        self._stop(EXIT_DEFECT)

    def _tick(self, carrier: Carrier) -> None:
        self._send(carrier.load())
        carrier.tick(self.loop.time())
        self._timer = self.loop.call_later(TICK_SECONDS, self._tick, carrier)

    async def _drain(self, seconds: float) -> None:
        cut = 0
        if self._carrier is not None:
            self._carrier.close_doors()
            cut = await drain(self.loop, self._carrier, seconds)
        self._send(channel.Drained(cut=cut))
        self._stop(0)

    async def close(self) -> None:
        """Let go, users before what they use: listeners and connections, then tasks, then the poller and the log."""
        if self._timer is not None:
            self._timer.cancel()
        try:
            if self._carrier is not None:
                self._carrier.abort()
        except Exception:
            _log.exception("defect: connections could not be ended in order; the process ends all the same")
        await self.tasks.end(END_SECONDS)
        await sleep(0)  # connections that were ended close their sockets in the next turn of the loop
        self.poller.close()
        self._log.close()

    def _stop(self, code: int) -> None:
        self.exit_code = self.exit_code or code
        self.stopped.set()
