"""The composition root of the manager: the one file that knows every room. Starts them in order, stops them in
reverse.

Order: admin ports, lock on the state directory, BPF programs (pins that exist go on capturing meanwhile), the agent's
own socket, what is on disk, workers with the last state, then control. Only what comes before the workers can stop the
agent from starting; after that nothing but a signal ends it.

The core is the same on every node: discovery, membership, SVIDs, workers, admin. Capture is one part beside it
(``manager.part``): a HostCapture, or NoCapture where it is switched off.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Sequence

from control.wire.watch import Batch
from nodeagent.admin.apps import debug_app, metrics_app, ready_app
from nodeagent.admin.server import AdminServer
from nodeagent.capture.controller import Capture, CaptureSettings
from nodeagent.capture.held import Held
from nodeagent.channel import Start
from nodeagent.client.issuer import ControlIssuer
from nodeagent.client.session import Session
from nodeagent.client.statefile import StateDirectory
from nodeagent.compiled.finder import INTERPRETED
from nodeagent.config import Config
from nodeagent.enrolment.waiting import WaitRequest
from nodeagent.lifecycle import Lifecycle, Phase
from nodeagent.limits.excess import Excess
from nodeagent.local.server import LocalServer
from nodeagent.manager.capturing import HostCapture
from nodeagent.manager.discovery import Discovery
from nodeagent.manager.hub import Hub
from nodeagent.manager.membership import Membership, read_token
from nodeagent.manager.packing import Packing
from nodeagent.manager.part import CapturePart, NoCapture
from nodeagent.manager.parts import Components
from nodeagent.manager.ports import Bound, agent_ports, bind_managers, guard_own, reserved_ports
from nodeagent.manager.supervisor import WORKER_COMMAND, Supervisor
from nodeagent.manager.svids import SvidKeeper
from nodeagent.manager.vitals import Vitals
from nodeagent.notify import ServiceManager
from nodeagent.report.documents import Documents
from nodeagent.report.health import Health
from nodeagent.report.samples import Samples
from nodeagent.state.targets import Applied
from nodeagent.telemetry.aggregate import Aggregate

RESTART_SECONDS = 1.0
"""A background task that failed (a defect) is started again after this."""
STOP_SECONDS = 15.0
"""What stopping may take beyond the drain."""

logger = logging.getLogger(__name__)

OpenCapture = Callable[[CaptureSettings], Capture]


def capture_settings(config: Config) -> CaptureSettings:
    """What the capture room needs of the configuration."""
    return CaptureSettings(
        bpffs=config.bpffs, instance=config.instance, cgroup_root=config.cgroup_root,
        containers=config.containers, container_records=config.container_records,
        sealed_without_agent=config.sealed_without_agent, ports=agent_ports(config),
        workers=config.workers or os.cpu_count() or 1,
    )  # fmt: skip


def _worker_options(config: Config) -> tuple[str, ...]:
    return () if config.compiled else (INTERPRETED,)


class Agent:
    """One agent. ``open_capture`` is None where nothing is captured (only tunnels are served). ``service`` is who
    started the process.
    """

    def __init__(
        self,
        config: Config,
        open_capture: OpenCapture | None,
        worker_command: Sequence[str] = WORKER_COMMAND,
        service: ServiceManager | None = None,
    ) -> None:
        """AdminError, StateDirectoryError, LoaderError, CgroupError or LocalSocketError if the agent cannot start."""
        self._config = config
        self._workers = config.workers or os.cpu_count() or 1
        self._stop = asyncio.Event()
        self._service = service or ServiceManager()
        self.lifecycle = Lifecycle()
        self._aggregate = Aggregate(time.monotonic)
        self._admin = AdminServer(Excess(config.limits, time.monotonic, lambda told: logger.warning("limit: %s", told)))
        with contextlib.ExitStack() as undo:
            ports = bind_managers(config, undo)
            self._directory = StateDirectory(config.state_dir)
            undo.callback(self._directory.close)
            self._discovery = Discovery(self._directory, self._on_applied)
            self._hub = Hub(
                self._start_message, self._discovery.mirror, self._aggregate, self._on_workers, Packing(self._workers)
            )
            self._capture = self._open_capture(open_capture, ports)
            undo.callback(self._capture.close)
            self._supervisor = Supervisor(self._hub, self._workers, (*worker_command, *_worker_options(config)))
            self._membership = Membership(
                config.control, config.node, lambda: read_token(config.token, config.token_file), self._directory,
                self._on_member,
            )  # fmt: skip
            self._keeper = SvidKeeper(
                ControlIssuer(self._membership.transport), self._directory, self._hub.publish_svid
            )
            self._session = Session(random.random)
            self._follower = self._discovery.follower(self._session, self._membership.transport)
            self._local = self._serve(ports)
            undo.callback(self._local.close)
            self._undo = undo.pop_all()
        self._vitals = Vitals(self._service, self.lifecycle, self._capture.standing, lambda: self._hub.links)

    def _open_capture(self, open_capture: OpenCapture | None, ports: Bound) -> CapturePart:
        if open_capture is None:
            return NoCapture(self._config.node)
        config = self._config
        capture = open_capture(capture_settings(config))
        part = HostCapture(config, capture, self._hub, self._discovery.state, reserved_ports(config))
        guard_own(capture, config, ports)
        return part

    def _serve(self, ports: Bound) -> LocalServer:
        """Put the documents behind the admin ports and the agent's own socket."""
        parts = Components(
            config=self._config, workers=self._workers, lifecycle=self.lifecycle, aggregate=self._aggregate,
            capture=self._capture, discovery=self._discovery, hub=self._hub, supervisor=self._supervisor,
            membership=self._membership, keeper=self._keeper, excess=self._admin.excess, session=self._session,
            follower=self._follower,
        )  # fmt: skip
        health, samples = Health(parts), Samples(parts)
        health.register()
        documents = Documents(parts, health, samples).by_name()
        self._admin.add(debug_app(documents), ports["admin"])
        self._capture.watched_by(ports["admin"][0])
        self._admin.add(metrics_app(samples.render), ports["metrics"])
        self._admin.add(ready_app(self.lifecycle), ports["ready"])
        return LocalServer(self._config.agent_socket, documents, self._wait)

    async def _wait(
        self, held: Held | None, *, asker: str, privileged: bool, seconds: float, optional: bool
    ) -> tuple[str, str]:
        asked = WaitRequest(asker=asker, privileged=privileged, seconds=seconds, optional=optional)
        verdict = await self._capture.wait(held, asked)
        return verdict.outcome.value, verdict.why

    def stop(self) -> None:
        """Drain and end ``run``."""
        self._stop.set()

    async def run(self) -> None:
        """Until ``stop`` or SIGTERM or SIGINT. JoinError if the state directory is another node's."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        config = self._config
        logger.info(
            "node %s: %d workers, control %s, %s",
            config.node, self._workers, config.control or "(none)",
            f"programs pinned in {self._capture.pin_dir}" if self._capture.pin_dir else "no capture",
        )  # fmt: skip
        with self._undo:
            self._restore()
            await self._run()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._resilient(name, run), name=name) for name, run in self._background().items()
            ]
            vitals = group.create_task(self._resilient("vitals", self._vitals.run), name="vitals")
            admin = group.create_task(self._admin.run(), name="admin")
            workers = group.create_task(self._supervisor.run(), name="workers")
            self.lifecycle.advance(Phase.RUNNING)
            await self._stop.wait()
            self._service.stopping(self._config.drain_seconds + STOP_SECONDS)
            await self._drain()
            for task in (*tasks, vitals):
                task.cancel()
            await workers
            self._admin.stop()
            await admin
        await self._discovery.save()
        self.lifecycle.advance(Phase.STOPPED)

    def _start_message(self) -> Start:
        config = self._config
        return Start(
            node=config.node,
            index=0,
            outbound_port=config.ports.outbound,
            inbound_port=config.ports.inbound,
            tunnel_port=config.ports.tunnel,
            tunnel_addresses=config.addresses,
            pin_dir=self._capture.pin_dir,
            access_log=config.access_log,
            log_level=config.log_level,
            cluster=config.cluster,
            splice=self._capture.splices,
            dns_port=config.dns_port,
            resolv_conf=str(config.resolv_conf),
            limits=config.limits,
        )

    def _restore(self) -> None:
        """What the disk knows: enough to serve without control. JoinError if the disk is another node's."""
        self._keeper.restore()
        self._session.resume(self._discovery.restore())
        self._membership.restore()

    def _background(self) -> dict[str, Callable[[], Awaitable[None]]]:
        tasks: dict[str, Callable[[], Awaitable[None]]] = {
            "svids": self._keeper.run,
            "save": self._discovery.keep_saved,
            "local": self._local.run,
            **self._capture.tasks(),
        }
        if self._config.control:
            tasks |= {"membership": self._membership.run, "watch": self._follower.run}
        return tasks

    async def _resilient(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await run()
            except Exception:  # a defect in one part must not end the data path
                logger.exception("%s failed; starting it again", name)
            await asyncio.sleep(RESTART_SECONDS)

    def _on_signal(self) -> None:
        if self._stop.is_set():
            logger.warning("asked to stop twice: live connections are cut now")
            self._supervisor.stop()
        self._stop.set()

    async def _drain(self) -> None:
        self.lifecycle.advance(Phase.DRAINING)
        self._supervisor.retire()
        logger.info("stopping: live connections may go on for %g s", self._config.drain_seconds)
        cut = await self._hub.drain(self._config.drain_seconds)
        if cut:
            logger.warning("%d connections were cut", cut)
        self._supervisor.stop()

    def _on_applied(self, batch: Batch, applied: Applied) -> None:
        self._hub.publish(batch)
        self._keeper.want(self._discovery.state.identities_on(self._config.node))
        self._capture.applied(self._discovery.state)
        if any(kind == "bundle" for kind, _ in applied.changed):
            self._trust_bundle()

    def _trust_bundle(self) -> None:
        credential = self._membership.credential
        bundle = self._discovery.state.bundle(credential.trust_domain) if credential is not None else None
        if bundle is not None:
            self._membership.trust(bundle.certificates)

    def _on_workers(self) -> None:
        self._capture.workers_changed()

    def _on_member(self) -> None:
        self._keeper.hurry()
        self._follower.hurry()
