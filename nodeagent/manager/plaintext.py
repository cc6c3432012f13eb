"""Keeps the kernel's view of how plaintext is met in step with the mesh: modes of ports, and whose ports are whose."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from control.wire.discovery import Workload
from nodeagent.capture.addresses import host_addresses
from nodeagent.capture.ports import own_ports, ports_of
from nodeagent.loader.abi import PortMode
from nodeagent.loader.ports import OwnKey, PortEntry, PortKey
from nodeagent.namespaces.handle import Namespace, own
from nodeagent.policy.plaintext import effective_mode
from nodeagent.state.view import NodeState

LOOK_SECONDS = 1.0
"""A program that somebody detached is attached again after at most this."""

logger = logging.getLogger(__name__)


class Guarding(Protocol):
    """What is used of ``capture.inbound.InboundGuard``."""

    ports: dict[PortKey, PortEntry]

    def guard(self, namespaces: Iterable[Namespace], *, keep: bool = False) -> list[str]:
        """Be in force in exactly these namespaces."""

    def apply(self, ports: Mapping[PortKey, PortEntry], own: set[OwnKey], *, keep: bool = False) -> list[str]:
        """Meet plaintext so."""

    def know(self, addresses: set[bytes]) -> list[str]:
        """These are the host's own addresses."""

    def close(self) -> None:
        """Let go."""


class PlaintextPorts:
    """Drives an InboundGuard. ``homes``: the namespaces in which a workload's servers are; ``reserved``: the agent's
    own ports.
    """

    def __init__(
        self, guard: Guarding, node: str, homes: Callable[[Workload], Iterable[Namespace]], reserved: frozenset[int]
    ) -> None:
        self._guard = guard
        self._node = node
        self._homes = homes
        self._reserved = reserved
        self._state: NodeState | None = None
        self._cgroups: dict[int, str] = {}
        self._stale = False
        self._changed = asyncio.Event()
        self._not_written: tuple[str, ...] = ()
        self.problems: tuple[str, ...] = ()
        """What the last step could not do; it is tried again every LOOK_SECONDS."""

    def changed(self, state: NodeState) -> None:
        """This is the state now."""
        self._state, self._stale = state, True
        self._changed.set()

    def enrolled(self, cgroups: Mapping[int, str]) -> None:
        """These are the workloads' cgroups now (id -> uid)."""
        if self._cgroups != cgroups:
            self._cgroups = dict(cgroups)
            self.moved()

    def moved(self) -> None:
        """A workload may have other homes now."""
        self._stale = True
        self._changed.set()

    def step(self) -> None:
        """Look and act once. Before any state is known nothing is touched: what is pinned stays in force."""
        state = self._state
        if state is None or not state.ready:
            return
        homes = {w.uid: tuple(self._homes(w)) for w in state.local_workloads(self._node)}
        if self._stale:
            self._not_written = tuple(self._apply(state, homes))
            self._stale = False
        namespaces = {own().cookie: own()}  # the agent's ports are there, whether or not workloads are
        namespaces |= {namespace.cookie: namespace for home in homes.values() for namespace in home}
        guarded = self._guard.guard(namespaces.values(), keep=not state.complete)
        problems = (*guarded, *self._not_written, *self._guard.know(host_addresses()))
        for problem in problems:
            if problem not in self.problems:
                logger.error("plaintext: %s", problem)
        self.problems = problems

    def _apply(self, state: NodeState, homes: Mapping[str, Iterable[Namespace]]) -> list[str]:
        local = state.local_workloads(self._node)
        cookies = {uid: [namespace.cookie for namespace in home] for uid, home in homes.items()}
        ports = ports_of(local, lambda workload: cookies[workload.uid], effective_mode, self._reserved)
        owned = own_ports(local, self._cgroups, lambda workload: cookies[workload.uid])
        return self._guard.apply(ports, owned, keep=not state.complete)

    async def run(self) -> None:
        """Until cancelled. A failure leaves what is in force and is tried again."""
        while True:
            self._changed.clear()
            try:
                self.step()
            except Exception as error:
                problem = f"not up to date: {error!r}; what is in force stays"
                if problem not in self.problems:
                    logger.exception("how plaintext is met cannot be brought up to date; what is in force stays")
                self.problems = (problem,)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._changed.wait()

    def close(self) -> None:
        """Let go; what is in force stays."""
        self._guard.close()

    def document(self) -> dict[str, Any]:
        """For operators: how many (address, port) entries are met how, and what is wrong."""
        modes = Counter(PortMode(entry.mode).name for entry in self._guard.ports.values())
        return {"entries": dict(sorted(modes.items())), "problems": list(self.problems)}
