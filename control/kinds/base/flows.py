"""Labels of workloads and services that govern live flows (``control.wire.governed``)."""

from __future__ import annotations

from control.kinds.base.relations import Labels
from control.wire import governed


def splice_of(labels: Labels) -> bool:
    """Whether same-node flows may be joined in the kernel."""
    return labels.get(governed.SPLICE_LABEL) != "off"


def idle_timeout_of(labels: Labels) -> int | None:
    """Seconds; 0: never; None: no label, or one that an older control accepted and that has no meaning."""
    try:
        text = labels.get(governed.IDLE_TIMEOUT_LABEL)
        return None if text is None else governed.idle_timeout(text)
    except ValueError:
        return None


def connect_timeout_of(labels: Labels) -> int | None:
    """Seconds; None: no label, or one that an older control accepted and that has no meaning."""
    try:
        text = labels.get(governed.CONNECT_TIMEOUT_LABEL)
        return None if text is None else governed.connect_timeout(text)
    except ValueError:
        return None
