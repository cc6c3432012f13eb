"""What operators say about live flows and names, in words: the labels ``nodemesh.io/splice``, ``nodemesh.io/dns``,
``nodemesh.io/capture``, ``nodemesh.io/old-connections``, ``nodemesh.io/idle-timeout`` and
``nodemesh.io/connect-timeout`` of workloads and services, and durations as they write them.
"""

from __future__ import annotations

import re
from typing import Final

LABEL_PREFIX: Final = "nodemesh.io/"
SPLICE_LABEL: Final = LABEL_PREFIX + "splice"
"""``on`` or ``off``."""
DNS_LABEL: Final = LABEL_PREFIX + "dns"
"""``on`` or ``off``: off leaves a workload's DNS questions alone, and it does not know the names of the mesh."""
CAPTURE_LABEL: Final = LABEL_PREFIX + "capture"
"""``on`` or ``off``: off takes a workload's processes out of the mesh, new connections at least; those that it carries
already go on."""
OLD_CONNECTIONS_LABEL: Final = LABEL_PREFIX + "old-connections"
"""``keep``, ``reset`` or a duration: what becomes of the connections that a program has open when it joins the mesh or
leaves it; after a duration those that still stand are reset."""
IDLE_TIMEOUT_LABEL: Final = LABEL_PREFIX + "idle-timeout"
"""A duration or ``off``."""
CONNECT_TIMEOUT_LABEL: Final = LABEL_PREFIX + "connect-timeout"
"""A duration; of services."""
CONNECT_TIMEOUT: Final = 3
"""Seconds, where nobody says otherwise."""
MAX_CONNECT_TIMEOUT: Final = 120
"""Seconds; Linux gives up after about as long (tcp_syn_retries)."""
MAX_IDLE_TIMEOUT: Final = 365 * 86_400
"""Seconds."""

_DURATION: Final = re.compile(r"([0-9]{1,9})(s|m|h|d)\Z")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def idle_timeout(text: str) -> int:
    """``90s``, ``15m``, ``1h`` or ``7d`` in seconds; ``off`` and a duration of zero are 0, which means never.
    ValueError otherwise.
    """
    return 0 if text in ("off", "0") else _seconds(text, "off for never")


def connect_timeout(text: str) -> int:
    """``1s`` to ``2m`` in seconds. ValueError otherwise."""
    found = _DURATION.match(text)
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 1 <= seconds <= MAX_CONNECT_TIMEOUT:
        raise ValueError(f"{text[:40]!r} is no time to connect in; write 1s to {MAX_CONNECT_TIMEOUT}s, for example 5s")
    return seconds


def old_connections(text: str) -> int | None:
    """``keep`` is None, ``reset`` 0, a duration the seconds after which they are reset. ValueError otherwise."""
    if text == "keep":
        return None
    return 0 if text == "reset" else _seconds(text, "reset for at once, keep for never")


def _seconds(text: str, otherwise: str) -> int:
    found = _DURATION.match(text)
    if found is None:
        raise ValueError(f"{text[:40]!r} is not a duration; write for example 90s, 15m, 1h or 7d, or {otherwise}")
    seconds = int(found[1]) * _UNITS[found[2]]
    if seconds > MAX_IDLE_TIMEOUT:
        raise ValueError(f"{text!r} is more than {MAX_IDLE_TIMEOUT // 86_400}d; write {otherwise}")
    return seconds


def switch(text: str) -> bool:
    """``on`` or ``off``; ValueError otherwise."""
    if text not in ("on", "off"):
        raise ValueError(f"{text[:40]!r} is neither on nor off")
    return text == "on"
