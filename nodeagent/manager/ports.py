"""The agent's ports on this node: which they are, and those at which the manager itself listens."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict
from typing import Final

from control.wire.address import SocketAddress
from nodeagent.admin.server import EVERYWHERE, LOOPBACK, bind
from nodeagent.capture.controller import Capture
from nodeagent.capture.doors import AgentPorts, WorkerSockets, mark_where_guarded
from nodeagent.capture.ports import AGENT_PORTS
from nodeagent.config import Config
from nodeagent.namespaces.handle import own

MANAGER: Final = 0
"""In the place of the number of a worker: their ports are others."""

Bound = Mapping[str, list[socket.socket]]
"""The manager's listening sockets, by the name of the port."""

logger = logging.getLogger(__name__)


def agent_ports(config: Config) -> AgentPorts:
    """All of them."""
    ports = config.ports
    return AgentPorts(
        steered=(ports.outbound, ports.inbound, ports.tunnel), managers=(ports.admin, ports.metrics, ports.ready),
        dns=config.dns_port,
    )  # fmt: skip


def reserved_ports(config: Config) -> frozenset[int]:
    """The agent's own, which are never met as a workload's."""
    return AGENT_PORTS | frozenset(asdict(config.ports).values())


def bind_managers(config: Config, undo: ExitStack) -> Bound:
    """Bind them before capture is opened; ``undo`` closes them. AdminError if a port cannot be had."""

    def mark(descriptor: int) -> None:
        mark_where_guarded(config.bpffs, config.instance, descriptor)

    ports = config.ports
    found: dict[str, list[socket.socket]] = {}
    for name, hosts, port in (
        ("admin", LOOPBACK, ports.admin),
        ("metrics", EVERYWHERE, ports.metrics),
        ("ready", EVERYWHERE, ports.ready),
    ):
        found[name] = bind(hosts, port, f"ports.{name}", mark, elsewhere=config.capture)
        for bound in found[name]:
            undo.callback(bound.close)
    return found


def guard_own(capture: Capture, config: Config, bound: Bound) -> None:
    """Guard every port in the agent's own namespace, and have the kernel give what arrives at the manager's to the
    manager. What fails is logged: such a port can be another's.
    """
    for problem in capture.guard(own(), managed=True):
        logger.error("%s", problem)
    with closing(WorkerSockets(capture.pin_dir, MANAGER)) as sockets:
        for name, listeners in bound.items():
            for listener in listeners:
                at = SocketAddress(listener.getsockname()[0], getattr(config.ports, name))
                try:
                    sockets.meet(own().cookie, at, listener.fileno())
                except OSError as error:
                    logger.error("%s of the manager: %s", at, error)
