"""What the probe says, for tests."""

from __future__ import annotations

from typing import Any

DOCUMENT: dict[str, Any] = {
    "event": "connect", "time_ns": 1_795_524_789_157_571_590, "socket": "ffff8881", "netns": 1, "local": "127.0.0.1:-",
    "remote": "127.0.0.1:15001", "asked": "240.240.0.1:80", "side": "client", "cgroup": 77,
    "client_cgroup": None, "pid": 12, "client_pid": None, "comm": "curl", "old_state": "close", "state": "syn-sent",
    "error": None,
}  # fmt: skip


def said(**changes: Any) -> dict[str, Any]:
    """A captured connect(), but for the changes."""
    return {**DOCUMENT, **changes}
