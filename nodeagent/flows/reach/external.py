"""A host outside the mesh that its registry names: dialled in the client's own network namespace, without a tunnel."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from control.wire.address import SocketAddress
from control.wire.discovery import Service
from nodeagent.flows.app import AppLeg
from nodeagent.flows.balance import Balancer
from nodeagent.flows.flow import Flow
from nodeagent.flows.reach.attempt import Attempt, establish
from nodeagent.flows.services import Services
from nodeagent.net.dialling import OUTWARD_SECONDS, connect_reason, dial_app
from nodeagent.reasons import Reason
from nodeagent.state.targets import Place

MAX_ATTEMPTS: Final = 3
"""Endpoints that one connection tries, each for OUTWARD_SECONDS, or as long as the service allows."""
MAX_ADDRESSES: Final = 64
"""Addresses of one host that are chosen from."""

Lookup = Callable[[str], Awaitable[tuple[str, ...]]]
"""A name -> its addresses, canonical. ``socket.gaierror`` says why there are none: EAI_NONAME, the name has none; any
other, the look-up failed.
"""


async def _no_lookup(name: str) -> tuple[str, ...]:
    raise socket.gaierror(socket.EAI_FAIL, "this agent looks no names up")


@dataclass(frozen=True, slots=True)
class ExternalDestination:
    """A service outside the mesh, and where it is reached."""

    service: Service
    places: Sequence[Place]


@dataclass(frozen=True, slots=True)
class Candidate:
    """An address of a service outside the mesh, as the balancer knows it."""

    uid: str
    address: SocketAddress


class ExternalReach:
    """Of one worker. ``lookup`` is set where the worker is assembled."""

    def __init__(self, services: Services, balancer: Balancer) -> None:
        self._services = services
        self._balancer = balancer
        self.lookup: Lookup = _no_lookup

    def start(self, flow: Flow, source: AppLeg, to: ExternalDestination, attempt: Attempt) -> None:
        """Look up the addresses of a service and dial one of them, then others, up to MAX_ATTEMPTS."""
        work = self._reach(flow, source, to, attempt)
        self._services.tasks.spawn(work, f"reach {to.service.hostname}")

    async def _reach(self, flow: Flow, source: AppLeg, to: ExternalDestination, attempt: Attempt) -> None:
        found, why = await self._addresses(to)
        if not found:
            attempt.failed(*why)
            return
        tried: list[str] = []
        while not flow.done:
            chosen = self._balancer.choose(found, self._services.tasks.loop.time())
            if chosen is None or len(tried) == MAX_ATTEMPTS:
                attempt.failed(why[0], "; ".join(tried))
                return
            try:
                await self._dial(flow, source, chosen, attempt)
                return
            except OSError as error:
                self._balancer.failed(chosen.uid, self._services.tasks.loop.time())
                why = (connect_reason(error), "")
                tried.append(f"{chosen.address}: {error or 'no answer'}")
                found = _without(found, chosen, why[0])

    async def _addresses(self, to: ExternalDestination) -> tuple[list[Candidate], tuple[Reason, str]]:
        """What there is to choose from; why, if that is nothing."""
        found: dict[SocketAddress, None] = {}
        why = (Reason.NO_ENDPOINT, f"{to.service.hostname} has no endpoint")
        for place in to.places:
            try:
                found.update(dict.fromkeys(await self._of(place)))
            except socket.gaierror as error:
                missing = error.errno == socket.EAI_NONAME
                why = (Reason.NAME_NOT_FOUND if missing else Reason.LOOKUP_FAILED, f"{place.host}: {error.strerror}")
        uid = to.service.uid
        return [Candidate(f"{uid} {address}", address) for address in list(found)[:MAX_ADDRESSES]], why

    async def _of(self, place: Place) -> list[SocketAddress]:
        try:
            ipaddress.ip_address(place.host)
        except ValueError:
            return [SocketAddress(ip, place.port) for ip in await self.lookup(place.host)]
        return [SocketAddress(place.host, place.port)]

    async def _dial(self, flow: Flow, source: AppLeg, chosen: Candidate, attempt: Attempt) -> None:
        services, balancer = self._services, self._balancer
        make_leg = partial(AppLeg, services.buffers.application, flow, dialled=True, home=source.home)
        balancer.started(chosen.uid)
        try:
            leg = await dial_app(
                services.poller, make_leg, chosen.address, services.going_out(), inside=source.home,
                outward=_patience(flow.record.service),
            )  # fmt: skip
        except BaseException:
            balancer.ended(chosen.uid)
            raise
        if flow.done:  # while the dial was being answered
            balancer.ended(chosen.uid)
            leg.abort(flow.record.reason)
            return
        balancer.succeeded(chosen.uid)
        flow.when_closed(partial(balancer.ended, chosen.uid))
        flow.record.reached_address = chosen.address
        establish(flow, source, leg, attempt)


def _patience(service: Service | None) -> float:
    said = service.connect_timeout if service is not None else None
    return OUTWARD_SECONDS if said is None else said


def _without(found: list[Candidate], failed: Candidate, reason: Reason) -> list[Candidate]:
    """The others. Where one address is unreachable its whole family usually is: the other family goes first."""
    others = [each for each in found if each is not failed]
    if reason is Reason.CONNECT_UNREACHABLE:
        return [each for each in others if each.address.family != failed.address.family] or others
    return others
