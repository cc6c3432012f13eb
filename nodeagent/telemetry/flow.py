"""The record of one connection, filled by the relay as it learns, read by metrics, the access log and ``nodeagent
flows``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from control.wire.address import SocketAddress
from control.wire.discovery import AppProtocol, Service, Workload
from nodeagent.reasons import Reason


class Reporter(StrEnum):
    """Which end reports. A same-node flow is reported twice, once as each."""

    SOURCE = "source"
    DESTINATION = "destination"


class Security(StrEnum):
    """How the bytes travelled; a same-node flow is authenticated by the one agent without TLS."""

    MUTUAL_TLS = "mutual_tls"
    NONE = "none"


@dataclass(slots=True, kw_only=True)
class FlowRecord:
    """One connection. What is not known (yet) is None; counts are application bytes."""

    flow_id: int
    reporter: Reporter
    started: float
    """Wall clock, seconds since 1970."""
    source_address: SocketAddress | None = None
    claimed_address: SocketAddress | None = None
    """The client's address as the peer's agent claims it, where that is not believed."""
    source_principal: str | None = None
    """SPIFFE ID proved by the kernel (captured) or by TLS (inbound)."""
    source: Workload | None = None
    destination_address: SocketAddress | None = None
    """The address that the client asked for (source) or the workload's address and port (destination)."""
    tunnel_address: SocketAddress | None = None
    reached_address: SocketAddress | None = None
    """Of a service outside the mesh: the address that the agent connected to."""
    service: Service | None = None
    destination: Workload | None = None
    destination_principal: str | None = None
    protocol: AppProtocol = AppProtocol.TCP
    security: Security = Security.NONE
    bytes_sent: int = 0
    """From the client to the server."""
    bytes_received: int = 0
    """From the server to the client."""
    ended: float | None = None
    reason: Reason = Reason.OK
    detail: str = ""
    """What exactly happened, in words, where the reason alone does not tell."""
    trace_parent: str = ""
