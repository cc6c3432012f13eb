"""The parts of a running manager, as its documents, metrics and warnings need them."""

from __future__ import annotations

from dataclasses import dataclass

from nodeagent.capture.controller import Capture
from nodeagent.client.follow import Follower
from nodeagent.client.session import Session
from nodeagent.config import Config
from nodeagent.lifecycle import Lifecycle
from nodeagent.manager.discovery import Discovery
from nodeagent.manager.egress import Egress
from nodeagent.manager.enrol import Enroller
from nodeagent.manager.hub import Hub
from nodeagent.manager.membership import Membership
from nodeagent.manager.namespaces import NodeNamespaces
from nodeagent.manager.old_connections import OldConnections
from nodeagent.manager.plaintext import PlaintextPorts
from nodeagent.manager.splice import NodeSplice
from nodeagent.manager.supervisor import Supervisor
from nodeagent.manager.svids import SvidKeeper
from nodeagent.telemetry.aggregate import Aggregate


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """References, no logic. A feature of the manager that is to be seen in ``status`` gets a field here."""

    config: Config
    workers: int
    """How many workers are wanted."""
    lifecycle: Lifecycle
    aggregate: Aggregate
    capture: Capture | None
    """None: nothing is captured, only tunnels are served."""
    splice: NodeSplice
    discovery: Discovery
    hub: Hub
    supervisor: Supervisor
    membership: Membership
    keeper: SvidKeeper
    enroller: Enroller | None
    plaintext: PlaintextPorts | None
    namespaces: NodeNamespaces | None
    egress: Egress | None
    old_connections: OldConnections | None
    session: Session
    follower: Follower
