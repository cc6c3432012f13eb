"""No mesh: the client connects to the server."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from pathlib import Path

from tests.bench.figures import Topology
from tests.bench.processes import Place
from tests.bench.sites import cgroup, site
from tests.bench.systems.base import App, Deployment, Entry


class Direct:
    """Plain TCP over the veth, or over loopback."""

    name = "direct"
    has_proxies = False

    def version(self) -> str:
        return f"Linux {platform.release()}"

    @contextlib.contextmanager
    def deploy(self, topology: Topology, scratch: Path) -> Iterator[Deployment]:
        with site(topology) as nodes, cgroup() as client, cgroup() as server:
            yield Deployment(
                client=Place(nodes.client, client),
                server=Place(nodes.server, server),
                parties=(client, server),
                entries={app: Entry(nodes.server_address, app.value) for app in App},
            )
