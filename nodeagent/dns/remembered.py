"""Addresses of names outside the mesh, as long as they are good. Pure: the clock is passed in.

Source: RFC 1035 (time to live), RFC 2308 (what is not there is remembered too), RFC 8767 (an old answer serves while
nobody gives a new one).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

MAX_NAMES: Final = 4096
"""The name that was used longest ago is forgotten first."""
MAX_ADDRESSES: Final = 64
"""Of one name."""
SHORTEST_SECONDS: Final = 1.0
"""Answers that are good for less are kept for so long: a name is not looked up for each connection."""
LONGEST_SECONDS: Final = 3600.0
NEGATIVE_SECONDS: Final = 5.0
"""For a name that has no addresses: it may be about to get some."""
RETRY_SECONDS: Final = 2.0
"""After a lookup that failed."""
STALE_SECONDS: Final = 3600.0
"""How long an answer that is too old still serves where the resolvers fail."""


def is_outside(text: str) -> bool:
    """Whether an address may be of a host outside the mesh. Whoever answers for a name must not lead the agent to the
    node's own loopback.
    """
    ip = ip_address(text)
    return not (ip.is_loopback or ip.is_unspecified or ip.is_multicast or ip.is_link_local)


@dataclass(frozen=True, slots=True)
class Remembered:
    """What is known of a name. Without addresses ``why`` says why there are none."""

    addresses: tuple[str, ...]
    why: str
    exists: bool
    """False: the name has no address. True without addresses: that could not be found out."""
    until: float
    stale_until: float


class RememberedNames:
    """Name -> Remembered."""

    def __init__(self) -> None:
        self._names: OrderedDict[str, Remembered] = OrderedDict()

    def __len__(self) -> int:
        return len(self._names)

    def get(self, name: str, now: float) -> Remembered | None:
        """What is good still; None: look it up."""
        found = self._names.get(name)
        if found is None or found.until <= now:
            return None
        self._names.move_to_end(name)
        return found

    def found(self, name: str, addresses: tuple[str, ...], ttl: float, now: float) -> Remembered:
        """The resolvers gave addresses."""
        until = now + min(max(ttl, SHORTEST_SECONDS), LONGEST_SECONDS)
        return self._put(name, Remembered(addresses[:MAX_ADDRESSES], "", True, until, until + STALE_SECONDS))

    def missing(self, name: str, why: str, now: float) -> Remembered:
        """The resolvers said that there is no such name, or that it has no address."""
        return self._put(name, Remembered((), why, False, now + NEGATIVE_SECONDS, 0.0))

    def failed(self, name: str, why: str, now: float) -> Remembered:
        """The resolvers gave no answer: the last one goes on serving for a while."""
        before = self._names.get(name)
        until = now + RETRY_SECONDS
        if before is not None and before.addresses and now < before.stale_until:
            return self._put(name, Remembered(before.addresses, why, True, until, before.stale_until))
        return self._put(name, Remembered((), why, True, until, 0.0))

    def _put(self, name: str, value: Remembered) -> Remembered:
        self._names[name] = value
        self._names.move_to_end(name)
        while len(self._names) > MAX_NAMES:
            self._names.popitem(last=False)
        return value
