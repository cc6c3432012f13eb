"""The parts of a running manager, as its documents, metrics and warnings need them."""

from __future__ import annotations

from dataclasses import dataclass

from nodeagent.client.follow import Follower
from nodeagent.client.session import Session
from nodeagent.config import Config
from nodeagent.lifecycle import Lifecycle
from nodeagent.limits.excess import Excess
from nodeagent.manager.discovery import Discovery
from nodeagent.manager.hub import Hub
from nodeagent.manager.membership import Membership
from nodeagent.manager.part import CapturePart
from nodeagent.manager.supervisor import Supervisor
from nodeagent.manager.svids import SvidKeeper
from nodeagent.telemetry.aggregate import Aggregate


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """References, no logic. A feature of the core that is to be seen in ``status`` gets a field here; one of capture is
    seen through ``CapturePart``.
    """

    config: Config
    workers: int
    """How many workers are wanted."""
    lifecycle: Lifecycle
    aggregate: Aggregate
    capture: CapturePart
    discovery: Discovery
    hub: Hub
    supervisor: Supervisor
    membership: Membership
    keeper: SvidKeeper
    excess: Excess
    """Who used up a share of what the manager has."""
    session: Session
    follower: Follower
