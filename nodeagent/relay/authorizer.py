"""The evaluator, bound to the node's state: the policies that hold for a workload now, compiled once each. Pure."""

from __future__ import annotations

from control.wire.discovery import Workload
from nodeagent.policy.compile import PolicyCache
from nodeagent.policy.connection import Connection
from nodeagent.policy.evaluate import Denial, Permit, evaluate
from nodeagent.state.view import NodeState


class Authorizer:
    """Answers for one worker."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self._cache = PolicyCache()

    def authorize(self, destination: Workload, connection: Connection) -> Permit | Denial:
        """Whether the connection may reach the workload, by the policies that are known now."""
        return evaluate(connection, self._state.policies_of(destination), self._cache)
