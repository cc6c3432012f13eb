"""At which of its addresses a node answers, as far as this worker has seen. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from control.wire.address import SocketAddress

REMEMBER_SECONDS: Final = 60.0
"""After which an address that failed is tried in its turn again."""
MAX_FAILED: Final = 4096
"""Addresses that are remembered; the oldest is forgotten first."""


class NodeAddresses:
    """Addresses that did not answer go behind those that did, for a while. Otherwise the order stands."""

    def __init__(self) -> None:
        self._failed: dict[SocketAddress, float] = {}
        """Address -> when it is as good as any again; the oldest first."""

    def ordered(self, addresses: Sequence[SocketAddress], now: float) -> list[SocketAddress]:
        """In the order in which to try them."""
        if not self._failed or len(addresses) < 2:
            return list(addresses)
        return sorted(addresses, key=lambda address: self._failed.get(address, 0.0) > now)

    def failed(self, address: SocketAddress, now: float) -> None:
        """Nobody answered there."""
        self._failed.pop(address, None)
        if len(self._failed) >= MAX_FAILED:
            del self._failed[next(iter(self._failed))]
        self._failed[address] = now + REMEMBER_SECONDS

    def answered(self, address: SocketAddress) -> None:
        """An agent did."""
        self._failed.pop(address, None)
