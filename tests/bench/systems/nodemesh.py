"""nodemesh itself, in the lab of the stories: control and two agents, client and server in enrolled cgroups."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from tests.bench.apps import echo_command, serving
from tests.bench.figures import RunError, Topology
from tests.bench.processes import Place, output_of
from tests.bench.sites import tune
from tests.bench.systems.base import App, Deployment, Entry
from tests.netns import resources
from tests.netns.lab import Mesh, eventually

VIP = "240.240.0.10"
SERVICE_PORTS = {80 + offset: app for offset, app in enumerate(App)}
AGENT_SETTINGS = {"NODEMESH_ACCESS_LOG": "off", "NODEMESH_LOG_LEVEL": "warning"}
"""No access log in any system."""
NO_SPLICE = MappingProxyType({"NODEMESH_SPLICE": "off"})
"""The relay alone, on one node too: what splicing is worth, and what a node pays where it is off."""
CARRIES_S = 20.0
"""Time for the resources to reach both agents."""
PROBE_S = 0.01
PROBE_TIMEOUT_S = 10.0


class Nodemesh:
    """One service, one workload behind it; every setting of the agents that costs or saves work at its default, but
    those that `settings` (environment of the agents) names."""

    has_proxies = True

    def __init__(self, name: str = "nodemesh", settings: Mapping[str, str] = MappingProxyType({})) -> None:
        self.name = name
        self._settings = settings

    def version(self) -> str:
        changed = "".join(f" {key}={value}" for key, value in self._settings.items())
        return f"nodemesh {importlib.metadata.version('nodemesh')}{changed}"

    @contextlib.contextmanager
    def deploy(self, topology: Topology, scratch: Path) -> Iterator[Deployment]:
        with contextlib.ExitStack() as stack:
            try:
                mesh = Mesh(agent_settings={**AGENT_SETTINGS, **self._settings})
                stack.callback(mesh.stop)
                mesh.start()
                deployment = _set_up(mesh, topology)
                _wait_until_it_carries(mesh, deployment, scratch)
            except Exception as error:  # whatever is wrong with the mesh, the other systems still give their figures
                raise RunError(f"the mesh does not come up: {type(error).__name__}: {error}") from error
            yield deployment


def _set_up(mesh: Mesh, topology: Topology) -> Deployment:
    """Resources, enrolled cgroups; the agents that the flow passes are the proxies."""
    near = mesh.a
    far = mesh.a if topology is Topology.SAME_NODE else mesh.b
    mesh.apply(
        *(resources.node(node.name, node.v4, node.v6) for node in mesh.nodes),
        resources.workload("client", near.name),
        resources.workload("server", far.name),
        resources.service("server", {port: app.value for port, app in SERVICE_PORTS.items()}, addresses=(VIP,)),
    )
    client, server = mesh.spot_of(near, "client"), mesh.spot_of(far, "server")
    mesh.wait_enrolled(client, server)
    agents = {node.name: node for node in (near, far)}.values()
    for node in agents:
        tune(node.site.netns)
    return Deployment(
        client=Place(client.site.netns, client.cgroup),
        server=Place(server.site.netns, server.cgroup),
        entries={app: Entry(VIP, port) for port, app in SERVICE_PORTS.items()},
        proxies=frozenset(node.agent.pid for node in agents if node.agent is not None),
        cgroups=tuple(node.system.cgroup for node in agents),
        parties=(*(node.system.cgroup for node in agents), mesh.control_spot.cgroup, client.cgroup, server.cgroup),
        logs=tuple(node.log for node in agents),
    )


def _wait_until_it_carries(mesh: Mesh, deployment: Deployment, scratch: Path) -> None:
    """Until a message has gone through to a server and back."""
    entry = deployment.entries[App.ECHO]
    probe = echo_command("rtt", entry.host, str(entry.port), str(PROBE_S))

    def carries() -> bool:
        try:
            output_of(deployment.client, probe, PROBE_TIMEOUT_S)
        except RunError as failure:
            raise AssertionError(failure) from failure
        return True

    with serving(App.ECHO, deployment.server, scratch):
        eventually(carries, within=CARRIES_S, what=f"a message through the mesh; {mesh.report()}")
