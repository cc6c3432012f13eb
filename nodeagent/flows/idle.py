"""Idle timeouts: flows that carried nothing for longer than they may are reset.

No flow has a timer. One sweep goes round all of them, a part at each tick: a flow is never reset before its time, and
at most a round and a tick after it. Where nobody set a timeout, nothing is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from nodeagent.reasons import Reason

if TYPE_CHECKING:
    from nodeagent.flows.flow import Flow
    from nodeagent.flows.settings import FlowSettings

ROUND_TICKS: Final = 5
"""Ticks in which all flows are looked at, up to MAX_LOOKS at each; with more flows a round takes longer."""
MAX_LOOKS: Final = 2048
"""Flows that one tick looks at: a few milliseconds."""


class IdleSweep:
    """Of one worker."""

    def __init__(self, settings: FlowSettings) -> None:
        self._settings = settings
        self._round: list[int] = []
        """Flows that this round has not looked at yet."""
        self._share = 0

    def tick(self, flows: Mapping[int, Flow], now: float) -> int:
        """Look at the next part; ``now`` is CLOCK_MONOTONIC seconds. How many flows were reset."""
        if not self._settings.cuts_idle_flows:
            self._round.clear()
            return 0
        if not self._round:
            self._round = list(flows)
            self._share = min(MAX_LOOKS, -(-len(self._round) // ROUND_TICKS))
        cut = 0
        for _ in range(min(self._share, len(self._round))):
            flow = flows.get(self._round.pop())
            if flow is not None and flow.opened and not flow.done:
                cut += self._look(flow, now)
        return cut

    def _look(self, flow: Flow, now: float) -> bool:
        limit, who = self._settings.idle_timeout(flow.record)
        if not limit:
            return False
        quiet = flow.quiet(now)
        if quiet < limit:
            return False
        flow.cut(Reason.IDLE_TIMEOUT, f"nothing was carried for {quiet:.0f} s; {who} allows {limit} s")
        return True
