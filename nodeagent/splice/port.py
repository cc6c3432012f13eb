"""The splice as the relay asks for it: plain answers, and nothing that the kernel refuses ever stops a connection."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from control.wire.address import SocketAddress
from nodeagent.loader.errors import LoaderError
from nodeagent.splice import abi
from nodeagent.splice.abi import Flag, SpliceAnswer
from nodeagent.splice.figures import SplicedBytes
from nodeagent.splice.kernel import socket_cookie
from nodeagent.splice.splicer import Splicer, SpliceState

LOG_SECONDS: Final = 10.0
"""One failure in so long is logged, with how many there were since the one before; all are counted."""

WORDS: Final = {
    Flag.OUT_ULP: "a program wants a TLS socket",
    Flag.OUT_ZEROCOPY: "a program sends with MSG_ZEROCOPY",
    Flag.OUT_LOWAT: "a program set SO_RCVLOWAT",
    Flag.OUT_OPTION: "a program set TCP_INQ or SO_PEEK_OFF",
    Flag.OUT_SPLICE: "a program reads with splice(2)",
    Flag.OUT_FIONREAD: "a program asks with FIONREAD",
    Flag.OUT_WAITALL: "a program reads with MSG_WAITALL or MSG_TRUNC",
    Flag.OUT_BLOCKING: "a program blocks in recv()",
    Flag.OUT_COUNT: "its counts cannot be trusted",
    Flag.OUT_REFUSED: "the kernel refused a socket of it",
    Flag.OUT_URGENT: "a program sends or reads urgent data (MSG_OOB)",
    Flag.OUT_BULK: "more is sent than is read, which TCP does better",
}
"""Why a flow is out for good."""

_log = logging.getLogger("nodeagent.splice")


class SplicePort:
    """What a worker's relay is handed (``flows.splicing.KernelSplice``)."""

    def __init__(self, splicer: Splicer, clock: Callable[[], float] = time.monotonic) -> None:
        self._splicer = splicer
        self._clock = clock
        self._quiet_until = 0.0
        self._unlogged = 0
        self.failures = {"prepare": 0, "dial": 0, "enable": 0, "disable": 0, "forget": 0}
        """What the kernel refused since the worker started, by what was asked."""
        self._leaving: set[int] = set()
        """Legs that turned out to be bulk, and still have bytes in the kernel's queue."""

    def prepare(
        self, cookie: int, client: SocketAddress, listener: SocketAddress, places: tuple[int, int]
    ) -> int | None:
        """A flow's number; None: relay it."""
        try:
            return self._splicer.prepare(cookie, client, listener, places)
        except LoaderError as error:
            self._failed("prepare", "a flow cannot be prepared for the splice; it is relayed", error)
            return None

    def dialling(self, flow: int, descriptor: int) -> bool:
        """The agent's socket is going to connect to the server; False: the flow is relayed."""
        try:
            self._splicer.dialling(flow, descriptor)
        except LoaderError as error:
            self._failed("dial", "a socket cannot be marked for the splice; its flow is relayed", error)
            return False
        return True

    def prepare_leg(
        self, cookie: int, descriptor: int, ends: tuple[SocketAddress, SocketAddress], place: int
    ) -> tuple[int, bool] | None:
        """A leg's number, and whether it is prepared or to be asked for again; None: TCP carries it. ``cookie`` of the
        client's socket; 0 if the agent's own, with this ``descriptor``, is the client.
        """
        try:
            number = cookie or socket_cookie(descriptor)
            answer = self._splicer.prepare_leg(number, ends, place, dialled=not cookie)
        except LoaderError as error:
            self._failed("prepare", "a leg cannot be prepared; TCP carries it", error)
            return None
        return (number, answer is SpliceAnswer.DONE) if answer in (SpliceAnswer.DONE, SpliceAnswer.WAITING) else None

    def offer(self, flow: int) -> bool:
        """Splice if it is safe now; whether to ask again after the next relayed chunk."""
        try:
            return self._splicer.enable(flow) is SpliceState.WAITING
        except LoaderError as error:
            self._failed("enable", "a flow cannot be spliced; it is relayed", error)
            return False

    def withdraw(self, flow: int) -> None:
        """Back to relay until it is offered again."""
        try:
            self._splicer.disable(flow)
        except LoaderError as error:
            self._failed("disable", "a flow cannot be taken back to the relay; 'nodeagent splice off' takes all", error)

    def forget(self, flow: int) -> None:
        """The flow has ended."""
        self._leaving.discard(flow)
        try:
            self._splicer.forget(flow)
        except LoaderError as error:
            what = "a flow that ended cannot be taken out of the splice; the manager sweeps it up"
            self._failed("forget", what, error)

    def counters(self, flow: int) -> SplicedBytes | None:
        """What went the short way."""
        return self._splicer.counters(flow)

    def unread(self, flow: int) -> tuple[int, int]:
        """Octets that went the short way and were not read yet: by the server, by the client."""
        return self._splicer.unread(flow)

    def relayed_because(self, flow: int) -> str:
        """Why the kernel does not splice it now; nothing if it does."""
        spliced, flags = self._splicer.standing(flow)
        out = flags & abi.OUT
        if out:
            return ", ".join(words for flag, words in WORDS.items() if flag & out)
        if spliced:
            return ""
        if not flags & Flag.ENROLLED:
            return "nobody was seen reading yet"
        return "its receiver has to read what waits first, or nothing was sent since"

    def stuck(self, mine: set[int]) -> list[tuple[int, str]]:
        """Flows to be reset, each told once, and why. Legs that are bulk go back to TCP on the way."""
        found = self._splicer.broken(mine)
        self._leaving.update(flow for flow, flag in found if flag is Flag.OUT_BULK)
        if self._leaving:
            self._leaving = {flow for flow in self._leaving if not self._left(flow)}
        return [(flow, _words(flag.name or str(flag.value))) for flow, flag in found if flag is not Flag.OUT_BULK]

    def _left(self, flow: int) -> bool:
        try:
            return self._splicer.leave(flow)
        except LoaderError as error:
            self._failed("disable", "a leg cannot be given back to TCP; it is slower than it could be", error)
            return True

    def _failed(self, operation: str, what: str, error: LoaderError) -> None:
        self.failures[operation] += 1
        now = self._clock()
        if now < self._quiet_until:
            self._unlogged += 1
            return
        more = f" ({self._unlogged} more failures since the last such line)" if self._unlogged else ""
        _log.error("%s: %s%s", what, error, more)
        self._quiet_until, self._unlogged = now + LOG_SECONDS, 0


def _words(names: str) -> str:
    return names.lower().replace("|", ", ").replace("_", " ")
