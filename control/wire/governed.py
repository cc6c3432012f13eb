"""What operators say about live flows and names, in words: the labels ``nodemesh.io/splice``, ``nodemesh.io/dns``,
``nodemesh.io/capture`` and ``nodemesh.io/idle-timeout`` of workloads and services, and durations as they write them.
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
IDLE_TIMEOUT_LABEL: Final = LABEL_PREFIX + "idle-timeout"
"""A duration or ``off``."""
MAX_IDLE_TIMEOUT: Final = 365 * 86_400
"""Seconds."""

_DURATION: Final = re.compile(r"([0-9]{1,9})(s|m|h|d)\Z")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def idle_timeout(text: str) -> int:
    """``90s``, ``15m``, ``1h`` or ``7d`` in seconds; ``off`` and a duration of zero are 0, which means never.
    ValueError otherwise.
    """
    if text in ("off", "0"):
        return 0
    found = _DURATION.match(text)
    if found is None:
        raise ValueError(f"{text[:40]!r} is not a duration; write for example 90s, 15m, 1h or 7d, or off for never")
    seconds = int(found[1]) * _UNITS[found[2]]
    if seconds > MAX_IDLE_TIMEOUT:
        raise ValueError(f"{text!r} is more than {MAX_IDLE_TIMEOUT // 86_400}d; write off for never")
    return seconds


def switch(text: str) -> bool:
    """``on`` or ``off``; ValueError otherwise."""
    if text not in ("on", "off"):
        raise ValueError(f"{text[:40]!r} is neither on nor off")
    return text == "on"
