"""The composition root of the manager: the one file that knows every room. Starts them in order, stops them in
reverse.

Order: admin ports, lock on the state directory, what is on disk, BPF programs (pins that exist go on capturing
meanwhile), workers with the last state, then control. Only what comes before the workers can stop the agent from
starting; after that nothing but a signal ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import asdict

from control.wire.discovery import Workload
from control.wire.watch import Batch
from nodeagent.admin.apps import debug_app, metrics_app, ready_app
from nodeagent.admin.server import EVERYWHERE, LOOPBACK, AdminServer, bind
from nodeagent.capture.controller import Capture, CaptureSettings
from nodeagent.capture.ports import AGENT_PORTS
from nodeagent.capture.reset import Outcome, Subject, Surroundings, reset
from nodeagent.capture.standing import Way
from nodeagent.channel import Namespaces, Start
from nodeagent.client.follow import Follower
from nodeagent.client.issuer import ControlIssuer
from nodeagent.client.session import Session
from nodeagent.client.statefile import StateDirectory
from nodeagent.compiled.finder import INTERPRETED
from nodeagent.config import Config
from nodeagent.lifecycle import Lifecycle, Phase
from nodeagent.manager.discovery import Discovery
from nodeagent.manager.egress import Egress
from nodeagent.manager.enrol import Enroller
from nodeagent.manager.hub import Hub
from nodeagent.manager.membership import Membership, read_token
from nodeagent.manager.namespaces import NodeNamespaces
from nodeagent.manager.old_connections import OldConnections
from nodeagent.manager.packing import Packing
from nodeagent.manager.parts import Parts
from nodeagent.manager.plaintext import PlaintextPorts
from nodeagent.manager.splice import NodeSplice
from nodeagent.manager.supervisor import WORKER_COMMAND, Supervisor
from nodeagent.manager.svids import SvidKeeper
from nodeagent.namespaces.handle import Namespace, own
from nodeagent.report.documents import Documents
from nodeagent.report.health import Health
from nodeagent.report.samples import Samples
from nodeagent.state.targets import Applied
from nodeagent.telemetry.accesslog import Log, open_log
from nodeagent.telemetry.aggregate import Aggregate

RESTART_SECONDS = 1.0
"""A background task that failed (a defect) is started again after this."""

logger = logging.getLogger(__name__)


def capture_settings(config: Config) -> CaptureSettings:
    """What the capture room needs of the configuration."""
    return CaptureSettings(
        bpffs=config.bpffs, instance=config.instance, cgroup_root=config.cgroup_root,
        containers=config.containers, container_records=config.container_records,
        sealed_without_agent=config.sealed_without_agent,
    )  # fmt: skip


def reserved_ports(config: Config) -> frozenset[int]:
    """The agent's own, which are never met as a workload's."""
    return AGENT_PORTS | frozenset(asdict(config.ports).values())


def _worker_options(config: Config) -> tuple[str, ...]:
    return () if config.compiled else (INTERPRETED,)


class Agent:
    """One agent. ``open_capture`` is None where nothing is captured (only tunnels are served)."""

    def __init__(
        self,
        config: Config,
        open_capture: Callable[[CaptureSettings], Capture] | None,
        worker_command: Sequence[str] = WORKER_COMMAND,
    ) -> None:
        """AdminError, StateDirectoryError, LoaderError or CgroupError if the agent cannot start."""
        self._config = config
        self._workers = config.workers or os.cpu_count() or 1
        self._stop = asyncio.Event()
        self.lifecycle = Lifecycle()
        self._aggregate = Aggregate(time.monotonic)
        self._admin = AdminServer()
        with contextlib.ExitStack() as undo:
            ports = self._bind(undo)
            self._directory = StateDirectory(config.state_dir)
            undo.callback(self._directory.close)
            self._capture = None if open_capture is None else open_capture(capture_settings(config))
            if self._capture is not None:
                undo.callback(self._capture.close)
            self._plaintext = self._open_plaintext(undo)
            self._splice = self._open_splice(undo)
            self._discovery = Discovery(self._directory, self._on_applied)
            self._egress = self._open_egress()
            undo.pop_all()
        self._hub = self._make_hub()
        self._supervisor = Supervisor(self._hub, self._workers, (*worker_command, *_worker_options(config)))
        self._membership = Membership(
            config.control, config.node, lambda: read_token(config.token, config.token_file), self._directory,
            self._on_member,
        )  # fmt: skip
        self._keeper = SvidKeeper(ControlIssuer(self._membership.transport), self._directory, self._hub.publish_svid)
        self._namespaces = self._make_namespaces()
        self._refused = 0
        self._enroller = self._make_enroller()
        self._old_connections = self._make_old_connections()
        self._session = Session(random.random)
        self._follower = Follower(
            self._session, self._membership.transport, self._discovery.take, lambda: self._discovery.missing
        )
        self._serve_admin(ports)

    def _make_hub(self) -> Hub:
        hub = Hub(
            self._start_message(), self._discovery.mirror, self._aggregate, self._on_workers, Packing(self._workers)
        )
        hub.on_stuck, self._splice.on_excluded = self._splice.exclude, hub.publish_exclusions
        self._splice.tell_excluded()
        return hub

    def _open_splice(self, undo: contextlib.ExitStack) -> NodeSplice:
        if self._capture is None:
            return NodeSplice.off("nothing is captured on this node")
        if not self._config.splice:
            return NodeSplice.off("switched off in the configuration (splice: false)")
        opened = NodeSplice.open(
            self._capture.pin_dir, self._capture.cgroup_root, self._config.kill_switch, self._config.clear_switch
        )
        undo.callback(opened.close)
        return opened

    def _open_plaintext(self, undo: contextlib.ExitStack) -> PlaintextPorts | None:
        if self._capture is None:
            return None
        opened = PlaintextPorts(
            self._capture.open_inbound(), self._config.node, self._homes_of, reserved_ports(self._config)
        )
        undo.callback(opened.close)
        return opened

    def _homes_of(self, workload: Workload) -> Sequence[Namespace]:
        return self._namespaces.homes_of(workload.uid) if self._namespaces is not None else (own(),)

    def _make_namespaces(self) -> NodeNamespaces | None:
        if self._capture is None:
            return None
        return NodeNamespaces(self._capture, (self._config.ports.outbound, self._config.dns_port), self._on_namespaces)

    def _open_egress(self) -> Egress | None:
        if self._capture is None:
            return None
        config = self._config

        def log() -> Log:
            return open_log(config.access_log, asyncio.get_running_loop().call_soon, config.cluster)

        return Egress(self._capture.open_egress(), self._discovery.state, config.node, log)

    def _make_enroller(self) -> Enroller | None:
        if self._capture is None:
            return None
        config, hub = self._config, self._hub
        return Enroller(
            self._capture, config.node, (config.ports.outbound, config.dns_port), self._on_enrolment,
            lambda: hub.serving > 0, departed=hub.publish_departed, after=self._look_at_namespaces,
        )  # fmt: skip

    def _make_old_connections(self) -> OldConnections | None:
        if self._capture is None:
            return None
        return OldConnections(self._config.node, self._reset_connections, self._is_served)

    def _reset_connections(self, subject: Subject, ways: Collection[Way]) -> Outcome:
        assert self._capture is not None and self._enroller is not None
        around = Surroundings(
            enrolled=self._enroller.cgroups, destinations=self._capture.destinations,
            capture_port=self._config.ports.outbound,
            agent=lambda: [os.getpid(), *(link.pid for link in self._hub.links if link.pid)],
        )  # fmt: skip
        return reset(subject, around, ways)

    def _is_served(self, uid: str) -> bool:
        assert self._namespaces is not None and self._enroller is not None
        places = self._namespaces.of_workload(uid, self._enroller.cgroups)
        return self._hub.serving > 0 and all(place["served"] for place in places)

    def _look_at_namespaces(self, cgroups: Mapping[int, str]) -> None:
        if self._namespaces is not None and self._capture is not None:
            refused = self._capture.counters()["refused_no_listener"]
            everywhere, self._refused = refused != self._refused, refused  # somebody is in one that is not known
            self._namespaces.look(cgroups, self._capture.directories, everywhere=everywhere)
        if self._old_connections is not None and self._capture is not None:
            self._old_connections.enrolled(cgroups, self._capture.directories)

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
            f"programs pinned in {self._capture.pin_dir}" if self._capture is not None else "no capture",
        )  # fmt: skip
        try:
            self._restore()
        except BaseException:
            self._admin.close()
            self._close()
            raise
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._resilient(name, run), name=name) for name, run in self._background().items()
            ]
            admin = group.create_task(self._admin.run(), name="admin")
            workers = group.create_task(self._supervisor.run(), name="workers")
            self.lifecycle.advance(Phase.RUNNING)
            await self._stop.wait()
            await self._drain()
            for task in tasks:
                task.cancel()
            await workers
            self._admin.stop()
            await admin
        await self._discovery.save()
        self.lifecycle.advance(Phase.STOPPED)
        self._close()

    def _bind(self, undo: contextlib.ExitStack) -> Mapping[str, list[socket.socket]]:
        """The admin ports' sockets, by the name of the port."""
        ports = self._config.ports
        found: dict[str, list[socket.socket]] = {}
        for name, hosts, port in (
            ("admin", LOOPBACK, ports.admin),
            ("metrics", EVERYWHERE, ports.metrics),
            ("ready", EVERYWHERE, ports.ready),
        ):
            found[name] = bind(hosts, port, f"ports.{name}")
            for bound in found[name]:
                undo.callback(bound.close)
        return found

    def _serve_admin(self, ports: Mapping[str, list[socket.socket]]) -> None:
        parts = self._parts()
        health, samples = Health(parts), Samples(parts)
        health.register()
        documents = Documents(parts, health, samples)
        self._admin.add(debug_app(documents.by_name()), ports["admin"])
        if self._capture is not None:
            self._capture.watched_by(ports["admin"][0])
        self._admin.add(metrics_app(samples.render), ports["metrics"])
        self._admin.add(ready_app(self.lifecycle), ports["ready"])

    def _parts(self) -> Parts:
        return Parts(
            config=self._config, workers=self._workers, lifecycle=self.lifecycle, aggregate=self._aggregate,
            capture=self._capture, splice=self._splice, discovery=self._discovery, hub=self._hub,
            supervisor=self._supervisor, membership=self._membership, keeper=self._keeper, enroller=self._enroller,
            namespaces=self._namespaces, session=self._session, follower=self._follower, plaintext=self._plaintext,
            egress=self._egress, old_connections=self._old_connections,
        )  # fmt: skip

    def _start_message(self) -> Start:
        config = self._config
        return Start(
            node=config.node,
            index=0,
            outbound_port=config.ports.outbound,
            inbound_port=config.ports.inbound,
            tunnel_port=config.ports.tunnel,
            tunnel_addresses=config.addresses,
            pin_dir=str(self._capture.pin_dir) if self._capture is not None else "",
            access_log=config.access_log,
            log_level=config.log_level,
            cluster=config.cluster,
            splice=self._splice.possible,
            dns_port=self._config.dns_port,
            resolv_conf=str(self._config.resolv_conf),
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
            "splice": self._splice.run,
        }
        if self._config.control:
            tasks |= {"membership": self._membership.run, "watch": self._follower.run}
        if self._enroller is not None:
            tasks["enrol"] = self._enroller.run
        if self._plaintext is not None:
            tasks["plaintext"] = self._plaintext.run
        if self._egress is not None:
            tasks["egress"] = self._egress.run
        if self._old_connections is not None:
            tasks["old-connections"] = self._old_connections.run
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

    def _close(self) -> None:
        self._splice.close()
        if self._egress is not None:
            self._egress.close()
        if self._plaintext is not None:
            self._plaintext.close()
        if self._namespaces is not None:
            self._namespaces.close()
        if self._capture is not None:
            self._capture.close()
        self._directory.close()

    def _on_applied(self, batch: Batch, applied: Applied) -> None:
        self._hub.publish(batch)
        self._splice.applied(self._discovery.state, self._config.node)
        self._keeper.want(self._discovery.state.identities_on(self._config.node))
        if self._enroller is not None:
            self._enroller.changed(self._discovery.state)
        if self._plaintext is not None:
            self._plaintext.changed(self._discovery.state)
        if self._old_connections is not None:
            self._old_connections.changed(self._discovery.state)
        if any(kind == "bundle" for kind, _ in applied.changed):
            self._trust_bundle()

    def _on_namespaces(self, namespaces: Namespaces) -> None:
        self._hub.publish_namespaces(namespaces)
        if self._plaintext is not None:
            self._plaintext.moved()

    def _on_enrolment(self, cgroups: dict[int, str]) -> None:
        self._hub.publish_enrolment(cgroups)
        if self._plaintext is not None:
            self._plaintext.enrolled(cgroups)
        if self._egress is not None:
            self._egress.enrolled(cgroups)

    def _trust_bundle(self) -> None:
        credential = self._membership.credential
        bundle = self._discovery.state.bundle(credential.trust_domain) if credential is not None else None
        if bundle is not None:
            self._membership.trust(bundle.certificates)

    def _on_workers(self) -> None:
        self._splice.workers(link.pid for link in self._hub.links if link.pid)
        if self._enroller is not None and self._namespaces is not None:
            self._namespaces.served(self._hub.inside())
            self._enroller.wake()

    def _on_member(self) -> None:
        self._keeper.hurry()
        self._follower.hurry()
