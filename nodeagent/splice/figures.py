"""What a flow carried without the agent; plain, for rooms that know nothing of the kernel."""

from __future__ import annotations

from typing import NamedTuple


class SplicedBytes(NamedTuple):
    """Beside these, the agent relayed the rest."""

    sent: int
    """From client to server."""
    received: int
    """From server to client."""
    last_activity: float
    """CLOCK_MONOTONIC seconds of the last redirect, give or take a tick of 4 ms; 0 if there was none."""
    read: int = 0
    """What the applications have read of all, the relayed bytes included, both directions together."""
