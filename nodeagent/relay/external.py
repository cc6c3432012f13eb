"""Captured connections that leave the mesh for a host that its registry names: dialled in the client's own network
namespace, without a tunnel; bytes are passed on as they are.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from control.wire.address import SocketAddress
from nodeagent.flows.app import AppLeg
from nodeagent.flows.balance import Balancer
from nodeagent.flows.flow import Flow
from nodeagent.net.dialling import connect_reason, dial_app
from nodeagent.reasons import Reason
from nodeagent.relay.decide import ExternalPlan, Place
from nodeagent.relay.services import Services
from nodeagent.telemetry.flow import FlowRecord, Reporter

MAX_ATTEMPTS: Final = 3
"""Endpoints that one connection tries, each for CONNECT_TIMEOUT_SECONDS."""
MAX_ADDRESSES: Final = 64
"""Addresses of one host that are chosen from."""

Lookup = Callable[[str], Awaitable[tuple[str, ...]]]
"""A name -> its addresses, canonical. ``socket.gaierror`` says why there are none: EAI_NONAME, the name has none; any
other, it could not be found out.
"""


async def _no_lookup(name: str) -> tuple[str, ...]:
    raise socket.gaierror(socket.EAI_FAIL, "this agent looks no names up")


class WaysOut:
    """What flows out of the mesh share. One per worker; ``lookup`` is set by who puts the worker together."""

    def __init__(self, balancer: Balancer) -> None:
        self.balancer = balancer
        self.lookup: Lookup = _no_lookup


@dataclass(frozen=True, slots=True)
class Reached:
    """An address of a service outside the mesh, as the balancer knows it."""

    uid: str
    address: SocketAddress


class ExternalFlow:
    """One connection."""

    def __init__(
        self, services: Services, ways: WaysOut, leg: AppLeg, plan: ExternalPlan, asked_for: SocketAddress
    ) -> None:
        self._services = services
        self._ways = ways
        self._leg = leg
        self._plan = plan
        tracker = services.tracker
        record = FlowRecord(
            flow_id=tracker.next_id(), reporter=Reporter.SOURCE, started=tracker.now(),
            source_address=plan.source_address, source_principal=plan.source.identity, source=plan.source,
            destination_address=asked_for, service=plan.service, protocol=plan.protocol,
        )  # fmt: skip
        self._flow = Flow(tracker, record)

    def start(self) -> None:
        """Find an address and dial it; what fails is in the record."""
        self._leg.flow = self._flow
        self._flow.source = self._leg
        self._services.tracker.add(self._flow)
        self._services.tasks.spawn(self._reach(), f"reach {self._plan.service.hostname}")

    async def _reach(self) -> None:
        found, why = await self._addresses()
        if not found:
            self._flow.cut(*why)
            return
        tried: list[str] = []
        while not self._flow.done:
            chosen = self._ways.balancer.choose(found, self._services.tasks.loop.time())
            if chosen is None or len(tried) == MAX_ATTEMPTS:
                self._flow.cut(why[0], "; ".join(tried))
                return
            try:
                await self._dial(chosen)
                return
            except OSError as error:
                self._ways.balancer.failed(chosen.uid, self._services.tasks.loop.time())
                why = (connect_reason(error), "")
                tried.append(f"{chosen.address}: {error or 'no answer'}")
                found = _without(found, chosen, why[0])

    async def _addresses(self) -> tuple[list[Reached], tuple[Reason, str]]:
        """What there is to choose from; why, if that is nothing."""
        found: dict[SocketAddress, None] = {}
        why = (Reason.NO_ENDPOINT, f"{self._plan.service.hostname} has no endpoint")
        for place in self._plan.places:
            try:
                found.update(dict.fromkeys(await self._of(place)))
            except socket.gaierror as error:
                missing = error.errno == socket.EAI_NONAME
                why = (Reason.NAME_NOT_FOUND if missing else Reason.LOOKUP_FAILED, f"{place.host}: {error.strerror}")
        uid = self._plan.service.uid
        return [Reached(f"{uid} {address}", address) for address in list(found)[:MAX_ADDRESSES]], why

    async def _of(self, place: Place) -> list[SocketAddress]:
        try:
            ipaddress.ip_address(place.host)
        except ValueError:
            return [SocketAddress(ip, place.port) for ip in await self._ways.lookup(place.host)]
        return [SocketAddress(place.host, place.port)]

    async def _dial(self, reached: Reached) -> None:
        flow, services, balancer = self._flow, self._services, self._ways.balancer
        make_leg = partial(AppLeg, services.buffers.application, flow, dialled=True, home=self._leg.home)
        balancer.started(reached.uid)
        try:
            leg = await dial_app(
                services.poller, make_leg, reached.address, services.going_out(), inside=self._leg.home, outward=True
            )
        except BaseException:
            balancer.ended(reached.uid)
            raise
        if flow.done:  # while the dial was being answered
            balancer.ended(reached.uid)
            leg.abort(flow.record.reason)
            return
        balancer.succeeded(reached.uid)
        flow.on_close = partial(balancer.ended, reached.uid)
        flow.record.reached_address = reached.address
        flow.destination = leg
        flow.establish()
        self._leg.join(leg)
        if not flow.done:
            leg.join(self._leg)


def _without(found: list[Reached], failed: Reached, reason: Reason) -> list[Reached]:
    """The others; where one is unreachable its whole family is, as a rule: the other family goes first."""
    others = [each for each in found if each is not failed]
    if reason is Reason.CONNECT_UNREACHABLE:
        return [each for each in others if each.address.family != failed.address.family] or others
    return others
