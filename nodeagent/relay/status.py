"""Live flows and tunnels as rows for ``nodeagent flows`` and ``/debug/flows``."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any, Final

from nodeagent.flows.flow import Flow
from nodeagent.flows.tracker import Tracker
from nodeagent.relay.inbound import TunnelServer
from nodeagent.tunnel.end import TunnelEnd
from nodeagent.tunnel.pool import TunnelClient

MAX_ROWS: Final = 10_000
"""Flows that one answer lists."""


def flow_rows(tracker: Tracker) -> tuple[tuple[dict[str, Any], ...], bool]:
    """The live flows, and whether there are more than are listed."""
    rows = []
    for flow in islice(tracker.flows, MAX_ROWS):
        flow.refresh()
        record = flow.record
        rows.append({
            "id": record.flow_id,
            "path": _path(flow),
            "relayed_because": _relayed_because(flow),
            "reporter": record.reporter.value,
            "source": record.source.uid if record.source else None,
            "source_address": str(record.source_address),
            "destination": record.destination.uid if record.destination else None,
            "destination_address": str(record.destination_address),
            "service": record.service.uid if record.service else None,
            "tunnel": str(record.tunnel_address) if record.tunnel_address else None,
            "reached": str(record.reached_address) if record.reached_address else None,
            "security": record.security.value,
            "established": flow.opened,
            "bytes_sent": record.bytes_sent,
            "bytes_received": record.bytes_received,
            "seconds": round(max(0.0, tracker.now() - record.started), 3),
            "idle_timeout": tracker.settings.idle_timeout(record)[0],
            "traceparent": record.trace_parent,
        })  # fmt: skip
    return tuple(rows), len(tracker) > MAX_ROWS


def _path(flow: Flow) -> str:
    service = flow.record.service
    if service is not None and service.external is not None:
        return "external"
    return "same-node" if flow.second is not None else "tunnel"


def _relayed_because(flow: Flow) -> str | None:
    """Why a same-node flow is not spliced now; empty if it is, None for others."""
    if flow.second is None:
        return None
    return flow.relayed_because if flow.spliced is None else flow.spliced.relayed_because


def tunnel_rows(tunnels: Iterable[TunnelEnd]) -> tuple[dict[str, Any], ...]:
    """The tunnels, both directions."""
    return tuple(
        {
            "role": tunnel.connection.role.value,
            "identity": _identity(tunnel),
            "remote": str(tunnel.remote) if tunnel.remote is not None else None,
            "peer": str(tunnel.peer.spiffe_id) if tunnel.peer is not None else None,
            "peer_expires": tunnel.peer.not_after.isoformat() if tunnel.peer is not None else None,
            "streams": len(tunnel.connection.streams),
            "draining": tunnel.connection.leaving,
        }
        for tunnel in tunnels
    )


def _identity(tunnel: TunnelEnd) -> str | None:
    """As whom this end speaks; None before the peer has said whom it wants."""
    if isinstance(tunnel, TunnelClient):
        return tunnel.target.identity
    return tunnel.identity or None if isinstance(tunnel, TunnelServer) else None
