"""The protocol of a system, and the ports of the applications that run behind it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from tests.bench.figures import Topology
from tests.bench.processes import Place


class App(Enum):
    """A server program; the value is the port that it listens on, at every address of its node."""

    HTTP = 8080
    ECHO = 8081
    BULK = 8082
    IPERF3 = 8083


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a client program connects to."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A running system."""

    client: Place
    server: Place
    entries: Mapping[App, Entry]
    proxies: frozenset[int] = frozenset()
    """Process ids of the proxies on both nodes; their descendants count too."""
    cgroups: tuple[Path, ...] = ()
    """Cgroups that hold the proxies and nothing else: a second count of their CPU. May be empty."""
    parties: tuple[Path, ...] = ()
    """Cgroups that hold, between them and once each, everything that takes part: the client's and the server's program,
    the proxies, control."""
    logs: tuple[Path, ...] = ()
    """Of the proxies; their ends are shown when a run fails."""


class System(Protocol):
    """A way for a client program to reach a server program."""

    @property
    def name(self) -> str: ...

    @property
    def has_proxies(self) -> bool:
        """False: there is nothing whose CPU or memory could be measured."""

    def version(self) -> str:
        """For the record in bench.json."""

    def deploy(self, topology: Topology, scratch: Path) -> AbstractContextManager[Deployment]:
        """Run the system until the block ends; on entry it is ready. Raises RunError, having removed everything.

        `scratch` is an empty directory for its files; the caller removes it.
        """
