"""What a decision is made from."""

from __future__ import annotations

from dataclasses import dataclass

from control.wire.ids import SpiffeId


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection to a workload. Addresses are canonical (``control.wire.address``)."""

    source_identity: SpiffeId | None
    """Proved by the kernel (captured on this node) or by TLS; None for plaintext from outside the mesh."""
    source_ip: str
    """Where the client is: its own address, not that of the agent that speaks for it."""
    destination_ip: str
    destination_port: int
    """The workload's own (target) port."""
