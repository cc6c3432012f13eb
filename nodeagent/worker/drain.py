"""How a worker ends: no new connections, time for the live ones, a goodbye in every tunnel."""

from __future__ import annotations

from asyncio import AbstractEventLoop, Event
from typing import Final

from nodeagent.flows.tracker import Tracker
from nodeagent.tunnel.end import TunnelEnd
from nodeagent.worker.carrier import Carrier

LAST_WORDS_SECONDS: Final = 2.0
"""For tunnels to say goodbye, after the last connection of a worker that was drained."""


async def drain(loop: AbstractEventLoop, carrier: Carrier, seconds: float) -> int:
    """Let live connections end, for at most so many seconds; how many were cut."""
    outbound, inbound = carrier.outbound, carrier.inbound
    carrier.services.drains = True
    if carrier.dns is not None:
        carrier.dns.close_all()
    tunnels = [*outbound.pool, *inbound.tunnels]
    inbound.drain()
    cut = await _wait_for_flows(loop, carrier.services.tracker, seconds)
    outbound.pool.drain()
    await _wait_for_tunnels(loop, {*tunnels, *outbound.pool, *inbound.tunnels})
    return cut


async def _wait_for_flows(loop: AbstractEventLoop, tracker: Tracker, seconds: float) -> int:
    empty = Event()
    tracker.when_empty = empty.set
    timer = loop.call_later(seconds, empty.set)
    if len(tracker):
        await empty.wait()
    timer.cancel()
    return tracker.shut_down()


async def _wait_for_tunnels(loop: AbstractEventLoop, tunnels: set[TunnelEnd]) -> None:
    """The last bytes of connections that are over may still wait in their tunnels."""
    left = {tunnel for tunnel in tunnels if tunnel.transport is not None}
    empty = Event()

    def gone(tunnel: TunnelEnd) -> None:
        left.discard(tunnel)
        if not left:
            empty.set()

    for tunnel in left:
        tunnel.when_gone = gone
    if left:
        timer = loop.call_later(LAST_WORDS_SECONDS, empty.set)
        await empty.wait()
        timer.cancel()
