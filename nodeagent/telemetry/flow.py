"""The record of one connection, filled by the relay as it learns, read by metrics, the access log and ``nodeagent
flows``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from control.wire.address import SocketAddress
from control.wire.discovery import AppProtocol, Service, Workload
from nodeagent.limits.owner import network_of
from nodeagent.reasons import Reason

UNKNOWN_OWNER: Final = "unknown"


class Reporter(StrEnum):
    """Which end reports. A same-node flow is reported twice, once as each."""

    SOURCE = "source"
    DESTINATION = "destination"


class Security(StrEnum):
    """How the bytes travelled; a same-node flow is authenticated by the one agent without TLS."""

    MUTUAL_TLS = "mutual_tls"
    NONE = "none"


class RecordKeeper(Protocol):
    """Where records get their number and time (``flows.tracker.Tracker``)."""

    def next_id(self) -> int:
        """A number for a new flow, unique in this process."""

    def now(self) -> float:
        """Wall clock, seconds since 1970."""


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
    established: bool = False
    """Whether both ends were connected."""

    @staticmethod
    def begin(
        keeper: RecordKeeper,
        reporter: Reporter,
        source: tuple[Workload | None, SocketAddress | None],
        destination: tuple[Workload | None, SocketAddress | None],
        service: Service | None = None,
        *,
        protocol: AppProtocol = AppProtocol.TCP,
        principal: str | None = None,
        security: Security = Security.NONE,
    ) -> FlowRecord:
        """The record of a connection that begins now, or is refused now. Each end is a workload and an address, as far
        as they are known; ``principal`` is the proved SPIFFE ID of the source where no workload says it.
        """
        client, server = source[0], destination[0]
        return FlowRecord(
            flow_id=keeper.next_id(), reporter=reporter, started=keeper.now(), source=client, source_address=source[1],
            source_principal=principal or (client.identity if client is not None else None), destination=server,
            destination_address=destination[1], destination_principal=server.identity if server is not None else None,
            service=service, protocol=protocol, security=security,
        )  # fmt: skip

    def as_destination(self, address: SocketAddress) -> FlowRecord:
        """The other report of a same-node flow: ``address`` is the workload's own address and port."""
        return FlowRecord(
            flow_id=self.flow_id, reporter=Reporter.DESTINATION, started=self.started,
            source_address=self.source_address, source_principal=self.source_principal, source=self.source,
            destination_address=address, service=self.service, destination=self.destination,
            destination_principal=self.destination_principal, protocol=self.protocol,
        )  # fmt: skip

    def refused(self, reason: Reason, detail: str) -> FlowRecord:
        """This record, of a connection that is refused."""
        self.reason, self.detail = reason, detail
        return self


def owner_of(record: FlowRecord) -> str:
    """Whom a connection counts against: at its source the workload (uid), at its destination the identity that TLS
    proved; else the network of the client's address.
    """
    if record.reporter is Reporter.SOURCE and record.source is not None:
        return record.source.uid
    if record.source_principal is not None:
        return record.source_principal
    return network_of(record.source_address.ip) if record.source_address is not None else UNKNOWN_OWNER
