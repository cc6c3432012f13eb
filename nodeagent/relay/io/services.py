"""What the accepting sides of a worker share, put together once by the worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from nodeagent.identity.store import Certificates
from nodeagent.relay.authorizer import Authorizer
from nodeagent.relay.io.tasks import Tasks
from nodeagent.relay.protocol.windows import WindowBudget
from nodeagent.relay.tracker import Tracker
from nodeagent.state.view import NodeState

READ_BUFFER: Final = 256 * 1024


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
    read_buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(READ_BUFFER)))
    """Where every tunnel of the worker reads; what was read is taken before the next read."""
    drains: bool = False
    """The worker takes no new connections."""
