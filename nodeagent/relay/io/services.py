"""What the accepting sides of a worker share, put together once by the worker."""

from __future__ import annotations

from dataclasses import dataclass, field

from nodeagent.identity.store import Certificates
from nodeagent.relay.authorizer import Authorizer
from nodeagent.relay.io.splicing import Splicing
from nodeagent.relay.io.tasks import Tasks
from nodeagent.relay.io.tunnel import ReadBuffers
from nodeagent.relay.protocol.windows import WindowBudget
from nodeagent.relay.tracker import Tracker
from nodeagent.state.view import NodeState


@dataclass(slots=True, kw_only=True)
class Services:
    """References, no logic."""

    node: str
    tasks: Tasks
    state: NodeState
    authorizer: Authorizer
    tracker: Tracker
    certificates: Certificates
    budget: WindowBudget
    splicing: Splicing | None = None
    """None: same-node flows are relayed."""
    buffers: ReadBuffers = field(default_factory=ReadBuffers)
    drains: bool = False
    """The worker takes no new connections."""
