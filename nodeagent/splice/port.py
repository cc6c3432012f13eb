"""The splice as the relay asks for it: plain answers, and nothing that the kernel refuses ever stops a connection."""

from __future__ import annotations

import logging

from control.wire.address import SocketAddress
from nodeagent.loader.errors import LoaderError
from nodeagent.splice.figures import SplicedBytes
from nodeagent.splice.splicer import Splicer, SpliceState

_log = logging.getLogger("nodeagent.splice")


class SplicePort:
    """What a worker's relay is handed (``relay.io.splicing.KernelSplice``)."""

    def __init__(self, splicer: Splicer) -> None:
        self._splicer = splicer

    def prepare(self, cookie: int, client: SocketAddress, listener: SocketAddress) -> int | None:
        """A flow's number; None: relay it."""
        try:
            return self._splicer.prepare(cookie, client, listener)
        except LoaderError:
            _log.exception("a flow cannot be prepared for the splice; it is relayed")
            return None

    def dialling(self, flow: int, descriptor: int) -> bool:
        """The agent's socket is going to connect to the server; False: the flow is relayed."""
        try:
            self._splicer.dialling(flow, descriptor)
        except LoaderError:
            _log.exception("a socket cannot be marked for the splice; its flow is relayed")
            return False
        return True

    def offer(self, flow: int) -> bool:
        """Splice if it is safe now; whether to ask again after the next relayed chunk."""
        try:
            return self._splicer.enable(flow) is SpliceState.WAITING
        except LoaderError:
            _log.exception("a flow cannot be spliced; it is relayed")
            return False

    def forget(self, flow: int) -> None:
        """The flow has ended."""
        try:
            self._splicer.forget(flow)
        except LoaderError:
            _log.exception("a flow that ended cannot be taken out of the splice; the manager sweeps it up")

    def counters(self, flow: int) -> SplicedBytes | None:
        """What went the short way."""
        return self._splicer.counters(flow)

    def stuck(self, mine: set[int]) -> list[tuple[int, str]]:
        """Flows to be reset, each told once, and why."""
        return [(flow, _words(flag.name or str(flag.value))) for flow, flag in self._splicer.broken(mine)]


def _words(names: str) -> str:
    return names.lower().replace("|", ", ").replace("_", " ")
