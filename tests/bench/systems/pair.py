"""What Envoy (as TCP proxy and as HTTP/2 tunnel) and HAProxy have in common: a proxy on each node, mTLS between them.

The client's proxy takes plaintext on its loopback, opens mTLS to the server's proxy, which forwards to its own
loopback. On the same-node topology both run in one namespace.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.bench.figures import Topology
from tests.bench.processes import Place, running, wait_listening
from tests.bench.sites import LOOPBACK, SERVER_ADDRESS, cgroup, site
from tests.bench.systems.base import App, Deployment, Entry

ENTRY_PORTS: Mapping[App, int] = {app: app.value + 10000 for app in App}
"""Plaintext, on the client's loopback."""
TLS_PORTS: Mapping[App, int] = {app: app.value + 11000 for app in App}
"""mTLS, on the server's node."""

THREADS = 2
"""Of each proxy."""
MAX_CONNECTIONS = 9000
"""Per proxy: two descriptors each must fit into the usual limit of 20000."""


def server_address(topology: Topology) -> str:
    """Where the client's proxy finds the server's."""
    return LOOPBACK if topology is Topology.SAME_NODE else SERVER_ADDRESS


@contextlib.contextmanager
def deploy_pair(
    name: str,
    topology: Topology,
    scratch: Path,
    commands: Mapping[str, Sequence[str]],
) -> Iterator[Deployment]:
    """Run the commands of `client` and `server`, wait until they listen."""
    with contextlib.ExitStack() as stack:
        nodes = stack.enter_context(site(topology))
        group, client, server = (stack.enter_context(cgroup()) for _ in range(3))
        pids = []
        for side, netns, ports in (("server", nodes.server, TLS_PORTS), ("client", nodes.client, ENTRY_PORTS)):
            process = stack.enter_context(
                running(f"{name} ({side})", Place(netns, group), commands[side], scratch / f"{side}.log")
            )
            wait_listening(process, list(ports.values()))
            pids.append(process.popen.pid)
        yield Deployment(
            client=Place(nodes.client, client),
            server=Place(nodes.server, server),
            proxies=frozenset(pids),
            cgroups=(group,),
            parties=(group, client, server),
            entries={app: Entry(LOOPBACK, port) for app, port in ENTRY_PORTS.items()},
            logs=(scratch / "client.log", scratch / "server.log"),
        )
