"""Flow records for tests: a client of the shop that talks to its web server, complete unless a test says otherwise."""

from __future__ import annotations

import itertools
from typing import Any

from control.wire.address import SocketAddress
from nodeagent.telemetry.flow import FlowRecord, Reporter, Security
from tests.support.objects import service, workload

STARTED = 1_700_000_000.0
_numbers = itertools.count(1)


def record(**changes: Any) -> FlowRecord:
    """A connection of shop/client-0 to shop/web, as the client's agent sees it."""
    source = workload("client-0", service_account="client")
    destination = workload()
    fields: dict[str, Any] = {
        "flow_id": next(_numbers),
        "reporter": Reporter.SOURCE,
        "started": STARTED,
        "source_address": SocketAddress("10.0.0.2", 40000),
        "source_principal": source.identity,
        "source": source,
        "destination_address": SocketAddress("240.240.0.10", 80),
        "service": service(),
        "destination": destination,
        "destination_principal": destination.identity,
        "security": Security.MUTUAL_TLS,
    }
    return FlowRecord(**{**fields, **changes})
