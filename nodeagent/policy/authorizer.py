"""The evaluators, bound to the node's state: how the workload meets plaintext, and the policies that hold for it now,
compiled once each. Pure.
"""

from __future__ import annotations

from control.wire.discovery import MtlsMode, Workload
from nodeagent.policy.compile import PolicyCache
from nodeagent.policy.connection import Connection
from nodeagent.policy.evaluate import Denial, Permit, evaluate
from nodeagent.policy.plaintext import effective_mode
from nodeagent.reasons import Reason
from nodeagent.state.view import NodeState


class Authorizer:
    """Answers for one worker."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self._cache = PolicyCache()

    def authorize(self, destination: Workload, connection: Connection) -> Permit | Denial:
        """Whether the connection may reach the workload, by what is known now. Without an identity it is plaintext
        from outside the mesh, and STRICT refuses it before any policy is asked.
        """
        current = self._state.workload(destination.uid) or destination
        port = connection.destination_port
        if connection.source_identity is None and effective_mode(current, port) is MtlsMode.STRICT:
            detail = f"PeerAuthentication of {current.uid} port {port} is STRICT"
            return Denial(Reason.PLAINTEXT_REFUSED, None, detail)
        return evaluate(connection, self._state.policies_of(destination), self._cache)
