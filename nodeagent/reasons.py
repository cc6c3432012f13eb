"""Why a connection ended or was refused. One append-only list, with whose fault it was and what to do about it.

The code goes into logs and metrics as it is; the flag is what Istio's dashboards and Kiali read (``response_flags``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Fault(Enum):
    """Whose move it is."""

    NOBODY = "nobody"
    SOURCE = "source"
    DESTINATION = "destination"
    OPERATOR = "operator"
    PEER_AGENT = "peer-agent"
    AGENT = "agent"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a reason means to an operator."""

    code: str
    fault: Fault
    flag: str
    hint: str


class Reason(Enum):
    """Every way for a connection to end. ``value`` is an Explanation."""

    OK = Explanation("ok", Fault.NOBODY, "-", "")
    SOURCE_RESET = Explanation(
        "source-reset", Fault.SOURCE, "-", "the client closed with a reset; look at the client's own log"
    )
    DESTINATION_RESET = Explanation(
        "destination-reset", Fault.DESTINATION, "-", "the server closed with a reset; look at the server's own log"
    )
    POLICY_DENIED = Explanation(
        "policy-denied",
        Fault.OPERATOR,
        "DENY",
        "an AuthorizationPolicy refuses this source; see 'meshctl describe workload' of the destination",
    )
    POLICY_MISSING = Explanation(
        "policy-missing",
        Fault.OPERATOR,
        "DENY",
        "a policy that selects the destination has not reached this node; check the agent's connection to control",
    )
    POLICY_REVOKED = Explanation(
        "policy-revoked", Fault.OPERATOR, "DENY", "a policy change refused a connection that was open"
    )
    PLAINTEXT_REFUSED = Explanation(
        "plaintext-refused",
        Fault.SOURCE,
        "DENY",
        "the client is not in the mesh and PeerAuthentication is STRICT; enrol the client, or set the port's mode to "
        "PERMISSIVE",
    )
    EGRESS_REFUSED = Explanation(
        "egress-refused",
        Fault.OPERATOR,
        "DENY",
        "an EgressPolicy lets the workload reach only what the registry names (REGISTRY_ONLY); register the "
        "destination (ServiceEntry), or give the workload a policy with mode ALLOW_ANY; 'nodeagent explain' names it",
    )
    WORKLOAD_REMOVED = Explanation(
        "workload-removed",
        Fault.OPERATOR,
        "DENY",
        "the workload was taken out of the mesh while the connection was open",
    )
    CGROUP_GONE = Explanation(
        "cgroup-gone",
        Fault.OPERATOR,
        "-",
        "the workload's cgroup was removed while a process that had left it still held the connection",
    )
    NAMESPACE_GONE = Explanation(
        "namespace-gone",
        Fault.OPERATOR,
        "-",
        "the last enrolled process left the network namespace while the connection was open",
    )
    NOT_READY = Explanation(
        "not-ready", Fault.AGENT, "CONNECT", "the agent has no state from control yet; see 'nodeagent status'"
    )
    NOT_CAPTURED = Explanation(
        "not-captured",
        Fault.SOURCE,
        "CONNECT",
        "somebody connected to the capture port directly; only captured connections are served there",
    )
    UNKNOWN_SOURCE = Explanation(
        "unknown-source",
        Fault.OPERATOR,
        "IDENTITY_ERROR",
        "the cgroup is enrolled but its workload is not known; see 'nodeagent workloads'",
    )
    NO_IDENTITY = Explanation(
        "no-identity",
        Fault.AGENT,
        "IDENTITY_ERROR",
        "no valid SVID for this workload; see 'nodeagent status' for the last answer of control",
    )
    UNKNOWN_DESTINATION = Explanation(
        "unknown-destination", Fault.OPERATOR, "CONNECT", "no service or workload of the mesh has this address and port"
    )
    NO_ENDPOINT = Explanation(
        "no-endpoint", Fault.OPERATOR, "CONNECT", "the service has no workload behind it; check its selector"
    )
    NAME_NOT_FOUND = Explanation(
        "name-not-found",
        Fault.OPERATOR,
        "CONNECT",
        "the node's resolvers know no usable address of this name; check hosts and endpoints of the ServiceEntry",
    )
    LOOKUP_FAILED = Explanation(
        "lookup-failed",
        Fault.OPERATOR,
        "CONNECT",
        "the node's resolvers gave no answer; look at them (setting resolv_conf), or write addresses (STATIC)",
    )
    CONNECT_REFUSED = Explanation(
        "connect-refused",
        Fault.DESTINATION,
        "CONNECT",
        "nothing listens on the workload's port; is the server running?",
    )
    CONNECT_TIMEOUT = Explanation(
        "connect-timeout",
        Fault.DESTINATION,
        "CONNECT",
        "no answer from the workload's or its node's address; a firewall may block port 15008",
    )
    CONNECT_UNREACHABLE = Explanation(
        "connect-unreachable", Fault.OPERATOR, "CONNECT", "no route to the workload's or its node's address"
    )
    CONNECT_FAILED = Explanation(
        "connect-failed", Fault.DESTINATION, "CONNECT", "the connection to the workload or its node could not be made"
    )
    TLS_FAILURE = Explanation(
        "tls-failure",
        Fault.PEER_AGENT,
        "TLS_FAILURE",
        "the TLS handshake between the agents failed; check clocks and trust bundles",
    )
    IDENTITY_MISMATCH = Explanation(
        "identity-mismatch",
        Fault.PEER_AGENT,
        "IDENTITY_ERROR",
        "the peer showed another SPIFFE ID than expected; is the workload's placement up to date?",
    )
    PROTOCOL_ERROR = Explanation(
        "protocol-error",
        Fault.PEER_AGENT,
        "H2_HANDSHAKE_FAILURE",
        "the peer broke the tunnel protocol; check its version",
    )
    BAD_TARGET = Explanation(
        "bad-target", Fault.PEER_AGENT, "CONNECT", "the peer asked for an address or port that this node does not serve"
    )
    PEER_REFUSED = Explanation(
        "peer-refused", Fault.PEER_AGENT, "CONNECT", "the destination's agent refused with a status that is not known"
    )
    TUNNEL_LOST = Explanation(
        "tunnel-lost",
        Fault.PEER_AGENT,
        "CONNECT",
        "the tunnel to the other node broke; look at the network between the nodes",
    )
    OVERLOADED = Explanation(
        "overloaded", Fault.AGENT, "CONNECT", "a share or a bound of the agent was used up; see 'nodeagent status'"
    )
    AGENT_SHUTDOWN = Explanation("agent-shutdown", Fault.AGENT, "-", "the agent was stopped and its drain time is over")
    IDLE_TIMEOUT = Explanation(
        "idle-timeout",
        Fault.OPERATOR,
        "-",
        "nothing was carried for as long as the service, the workload or the mesh allows; raise that (label "
        "nodemesh.io/idle-timeout, or idleTimeout of the MeshConfig), or have the program send something now and then",
    )
    ENTRY_REMOVED = Explanation(
        "entry-removed",
        Fault.OPERATOR,
        "DENY",
        "the ServiceEntry of the host was deleted, or names it no more, while the connection was open",
    )
    SPLICE_STUCK = Explanation(
        "splice-stuck",
        Fault.AGENT,
        "-",
        "a program of this flow reads in a way that the kernel splice cannot serve; it was reset, and the workload's "
        "further flows are relayed (to say so from the start: label nodemesh.io/splice=off)",
    )
    INTERNAL_ERROR = Explanation(
        "internal-error", Fault.AGENT, "-", "a defect of the agent; please report it with the log line before this one"
    )

    URGENT_DATA = Explanation(
        "urgent-data",
        Fault.NOBODY,
        "-",
        "a program sent urgent data (MSG_OOB, sendUrgentData), which could not be carried at its place in the stream: "
        "the agent of the other node is older or of another make (upgrade it), or the receiver did not read; or have "
        "the program send none",
    )

    SERVER_BUSY = Explanation(
        "server-busy",
        Fault.DESTINATION,
        "CONNECT",
        "the server accepts no connections although it listens: its accept queue is full ('ss -lnt' on its node shows "
        "Recv-Q above Send-Q); look at what keeps the program from accept(), or raise its backlog",
    )

    @property
    def code(self) -> str:
        """The stable word for logs and metrics."""
        return self.value.code

    @property
    def flag(self) -> str:
        """The value of the ``response_flags`` label."""
        return self.value.flag
