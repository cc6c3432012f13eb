"""An application of this node, dialled in the network namespace where it lives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from control.wire.address import SocketAddress
from nodeagent.flows.app import AppLeg
from nodeagent.flows.flow import Flow, JoinableLeg
from nodeagent.flows.reach.attempt import Attempt, establish
from nodeagent.flows.services import Services
from nodeagent.flows.splicing import FlowSplice
from nodeagent.namespaces.handle import Namespace
from nodeagent.net.dialling import dial_app, local_reason
from nodeagent.net.sockets import local_address, small_buffers
from nodeagent.reasons import Reason

Spliced = tuple[FlowSplice, AppLeg]
"""What the kernel may carry, and its source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalDestination:
    """Where the application listens, and whom it is to see as its client."""

    address: SocketAddress
    client: SocketAddress
    workload: str | None = None
    """The uid of the workload, whose network namespace is looked up; None: ``home`` says where."""
    home: Namespace | None = None
    """None: the agent's own network namespace."""
    joins_leg: bool = False
    """Whether the kernel may carry bytes between the application and the agent (``splicing.LegSplice``)."""


class LocalReach:
    """Of one worker."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def start(self, flow: Flow, source: JoinableLeg, to: LocalDestination, attempt: Attempt) -> None:
        """Dial: at once, or in a task of its own where the connection takes longer."""
        self._services.tasks.start(self._dial(flow, source, to, attempt, None), "dial")

    def start_spliced(
        self, flow: Flow, source: AppLeg, to: LocalDestination, attempt: Attempt, captured: tuple[int, SocketAddress]
    ) -> None:
        """As ``start``, for a source on this node too: the kernel may carry the flow. ``captured``: the cookie of the
        client's socket and the address that it is connected from.
        """
        splice = self._begin_splice(flow, source, to, captured)
        spliced = None if splice is None else (splice, source)
        self._services.tasks.start(self._dial(flow, source, to, attempt, spliced), "dial")

    def _begin_splice(
        self, flow: Flow, source: AppLeg, to: LocalDestination, captured: tuple[int, SocketAddress]
    ) -> FlowSplice | None:
        splicing, transport = self._services.splicing, source.transport
        listener = local_address(transport) if transport is not None else None
        if splicing is None or transport is None or listener is None or flow.done:
            return None
        try:
            homes = (source.home, self._home_of(to))
        except OSError:  # dialling says why
            return None
        cookie, client = captured
        splice = splicing.begin(flow, cookie, (client, listener), homes)
        if splice is None:
            return None
        small_buffers(transport.get_extra_info("socket"))
        flow.spliced = splice
        flow.when_closed(partial(splicing.end, splice))
        return splice

    def _home_of(self, to: LocalDestination) -> Namespace | None:
        return to.home if to.workload is None else self._services.home_of(to.workload, to.address)

    def _before_dial(self, to: LocalDestination, splice: FlowSplice | None) -> Callable[[int], None] | None:
        announce = self._services.speaking_for(to.client)
        if announce is None or splice is None:
            return announce if splice is None else splice.dialling

        def both(descriptor: int) -> None:
            announce(descriptor)
            splice.dialling(descriptor)

        return both

    async def _dial(
        self, flow: Flow, source: JoinableLeg, to: LocalDestination, attempt: Attempt, spliced: Spliced | None
    ) -> None:
        services, splice = self._services, None if spliced is None else spliced[0]
        try:
            home = self._home_of(to)
            make_leg = partial(AppLeg, services.buffers.application, flow, dialled=True, home=home)
            leg = await dial_app(
                services.poller, make_leg, to.address, self._before_dial(to, splice), spliced=splice is not None,
                inside=home, waits=flow.when_closed,
            )  # fmt: skip
        except OSError as error:
            if not flow.done:  # the client's patience is over
                attempt.failed(local_reason(error), f"{to.address}: {error or 'no answer'}")
            return
        if home is not None and home.closed:
            flow.cut(Reason.NAMESPACE_GONE, f"network namespace {home.inode} has no enrolled process any more")
        if flow.done:  # while the dial was being answered
            leg.abort(flow.record.reason)
            return
        if to.joins_leg and services.splicing is not None:
            services.splicing.leg(flow, leg)
        establish(flow, source, leg, attempt, None if spliced is None else partial(_watch, *spliced, leg))


def _watch(splice: FlowSplice, source: AppLeg, leg: AppLeg) -> None:
    """Offer the flow to the kernel now, and after each chunk that is relayed."""
    source.after_chunk = leg.after_chunk = splice.offer
    source.unread, leg.unread = splice.unread_by_client, splice.unread_by_server
    splice.offer()
