"""The mesh of most stories: two clients and a server on the first node, a server and a client on the second."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from tests.netns import resources
from tests.netns.lab import Mesh, Node
from tests.netns.servers import Handler, Server
from tests.netns.spot import Spot

PORT = 80
"""Of the services."""
TARGET_PORT = 8080
"""Of the servers behind them."""


class Family(Enum):
    """How the client dials: which kind of socket, which form of address."""

    V4 = "v4"
    V6 = "v6"
    MAPPED = "v4-mapped"

    def form(self, v4: str, v6: str) -> str:
        """One of a pair of addresses, in the form of this family."""
        return {"v4": v4, "v6": v6, "v4-mapped": f"::ffff:{v4}"}[self.value]


@dataclass
class Behind:
    """A service and the one workload behind it."""

    name: str
    node: Node
    spot: Spot
    v4: str
    v6: str

    def address(self, family: Family) -> str:
        """The service's virtual address."""
        return family.form(self.v4, self.v6)

    def serve(self, handler: Handler) -> Server:
        """A server on the target port, for the time of a block."""
        return Server(self.spot.listen(TARGET_PORT), handler)


class Shop:
    """The mesh and everything in it by name."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        a, b = mesh.a, mesh.b
        self.client = mesh.spot_of(a, "client")
        self.other = mesh.spot_of(a, "other")
        self.remote = mesh.spot_of(b, "remote")
        self.local = Behind("local", a, mesh.spot_of(a, "local"), "240.240.1.1", "fd6d:6573:68::101")
        self.server = Behind("server", b, mesh.spot_of(b, "server"), "240.240.1.2", "fd6d:6573:68::102")

    def set_up(self) -> None:
        """Tell control of it and wait until both agents know."""
        mesh = self.mesh
        mesh.apply(
            resources.workload("client", mesh.a.name),
            resources.workload("other", mesh.a.name),
            resources.workload("remote", mesh.b.name),
            *(
                resources.workload(each.name, each.node.name, labels={"tier": "back"})
                for each in (self.local, self.server)
            ),
            *(
                resources.service(each.name, {PORT: TARGET_PORT}, addresses=(each.v4, each.v6))
                for each in (self.local, self.server)
            ),
        )
        mesh.wait_enrolled(self.client, self.other, self.remote, self.local.spot, self.server.spot)

    @contextlib.contextmanager
    def labelled(self, behind: Behind, **labels: str) -> Iterator[None]:
        """The service has these labels (``nodemesh.io/``) for the time of a block."""
        ports, addresses = {PORT: TARGET_PORT}, (behind.v4, behind.v6)
        said = {f"nodemesh.io/{name.replace('_', '-')}": value for name, value in labels.items()}
        self.mesh.apply(resources.service(behind.name, ports, addresses=addresses, labels=said))
        try:
            yield
        finally:
            self.mesh.apply(resources.service(behind.name, ports, addresses=addresses))

    def dial(self, behind: Behind, family: Family = Family.V4, *, source: Spot | None = None) -> socket.socket:
        """A connection from the client (or another spot) to the service."""
        return (source or self.client).connect(behind.address(family), PORT)
