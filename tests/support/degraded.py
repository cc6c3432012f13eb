"""Kernels that cannot splice: tests marked ``splice`` prove the stated degradation there, they are not skipped.

The kernel is asked here by other means than the agent uses, so that an agent which wrongly believes that it cannot
splice fails the tests.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

TRACEPOINT = "sock_recv_length"
BTF = Path("/sys/kernel/btf/vmlinux")


@cache
def can_splice() -> bool:
    """Whether the running kernel has the tracepoint that tells what a reader has read (Linux 6.3)."""
    try:
        return f"\0btf_trace_{TRACEPOINT}\0".encode() in BTF.read_bytes()
    except OSError:
        return True  # no BTF: let the test itself say what is missing


def flips(item: pytest.Item) -> bool:
    """Whether this test proves the degradation here; the JUnit report says which did."""
    if item.get_closest_marker("splice") is None or can_splice():
        return False
    item.user_properties.append(("degraded", f"no tracepoint {TRACEPOINT}"))
    return True


def says_why(reason: str) -> None:
    """What an operator is told names what is missing, and which kernel has it."""
    assert TRACEPOINT in reason, reason
    assert "6.3" in reason, reason
