"""What agents tell each other about one stream of a tunnel, beside what HTTP/2 itself can say."""

from __future__ import annotations

from typing import Final

IDLE_TIMEOUT: Final = 0x6E6D_0001
"""Error code of RST_STREAM: the stream carried nothing for longer than its idle timeout. Other agents see an unknown
code, which they treat as any reset (RFC 9113, section 7).
"""
URGENT_DATA: Final = 0x6E6D_0002
"""Error code of RST_STREAM: an application sent urgent data (MSG_OOB), which could not be carried to the other one."""
REASON_HEADER: Final = "nodemesh-reason"
"""Header of an answer that refuses: the code of a ``Reason``, so that the source's log shows what the destination's
agent saw.
"""
