"""What the accepting sides of a worker share, put together once by the worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from control.wire.address import SocketAddress
from nodeagent.flows.splicing import Splicing
from nodeagent.flows.tracker import Tracker
from nodeagent.http2.windows import WindowBudget
from nodeagent.identity.store import Certificates
from nodeagent.namespaces.handle import Namespace
from nodeagent.net.poller import Poller
from nodeagent.net.tasks import Tasks
from nodeagent.policy.authorizer import Authorizer
from nodeagent.state.view import NodeState
from nodeagent.tunnel.end import ReadBuffers


class ClientAnnouncer(Protocol):
    """Where the agent says for whom it connects to a workload (``capture.clients.ClientTable``)."""

    def announce(self, descriptor: int, client: SocketAddress | None) -> None:
        """The server at the other end of this socket, which is not connected yet, is to see this client."""

    def go_out(self, descriptor: int) -> None:
        """This socket, which is not connected yet, goes to a host outside the mesh."""


class Homes(Protocol):
    """Which network namespaces the workloads of this node live in (``worker.namespaces.NetnsListeners``)."""

    def of(self, uid: str, address: SocketAddress) -> Namespace | None:
        """Where to connect to the workload; None: in the agent's own namespace. OSError says why nowhere."""

    def here(self, namespace: Namespace, uid: str) -> bool:
        """Whether the workload has processes in the namespace."""


@dataclass(slots=True, kw_only=True)
class Services:
    """References, and what a dial to a workload of this node has to be told."""

    node: str
    tasks: Tasks
    poller: Poller
    state: NodeState
    authorizer: Authorizer
    tracker: Tracker
    certificates: Certificates
    budget: WindowBudget
    splicing: Splicing | None = None
    """None: same-node flows are relayed."""
    clients: ClientAnnouncer | None = None
    """None: nothing is captured on this node, and servers see the agent's address."""
    homes: Homes | None = None
    """None: every workload lives in the agent's own network namespace."""
    buffers: ReadBuffers = field(default_factory=ReadBuffers)
    drains: bool = False
    """The worker takes no new connections."""

    def home_of(self, uid: str, address: SocketAddress) -> Namespace | None:
        """Where to connect to a workload of this node. OSError says why nowhere."""
        return None if self.homes is None else self.homes.of(uid, address)

    def speaking_for(self, client: SocketAddress | None) -> Callable[[int], None] | None:
        """What ``dialling.dial_app`` is to call before it connects to a workload of this node for ``client``."""
        clients = self.clients
        return None if clients is None else lambda descriptor: clients.announce(descriptor, client)

    def going_out(self) -> Callable[[int], None] | None:
        """... to a host outside the mesh."""
        return None if self.clients is None else self.clients.go_out
