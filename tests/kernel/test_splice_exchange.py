"""Threads that do nothing but ask and answer on one spliced socket wait for each other busily; no others do."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

from nodeagent.splice.controller import SpliceSettings
from nodeagent.splice.scratch import ScratchFlow
from tests.kernel.conftest import FAMILIES, Family, Lab
from tests.kernel.splicing import SpliceLab, wait_until
from tests.support.pace import patient

pytestmark = pytest.mark.splice

PATIENCE = int(patient(0.02) * 1e9)
"""Nanoseconds. A hundred times the default: that other tests run beside must not look like a slow answer."""
SECONDS = 20.0
ENOUGH = 100
"""Exchanges, many times those after which two threads wait for each other."""
THINK = 0.002
"""Seconds. A server waits as long for the next message as it took before."""
ASK, HUSH = b"?", b"."
"""To the server: answer; do not."""

needs_two = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="nobody waits on one processor")


def _precede() -> None:
    """Before all others on its processor: what else runs on this machine does not count then."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


@contextmanager
def preceding() -> Iterator[None]:
    """The current thread does."""
    _precede()
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@contextmanager
def serving(ends: Sequence[socket.socket], processor: int | None = None) -> Iterator[None]:
    """A program that answers on all of them, by an event loop of one thread, on that processor or before all others."""
    pid = os.fork()
    if pid == 0:
        try:
            if processor is None:
                _precede()
            else:
                os.sched_setaffinity(0, {processor})
            _serve({end.fileno(): end for end in ends})
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _serve(ends: dict[int, socket.socket]) -> None:
    poll = select.epoll()
    for number in ends:
        poll.register(number, select.EPOLLIN)
    while True:
        for number, _ in poll.poll():
            if (data := ends[number].recv(64)) == HUSH:
                continue
            ends[number].send(data)


def exchange(end: socket.socket) -> None:
    end.sendall(ASK)
    assert end.recv(1) == ASK


class Exchanges:
    """Flows over the splice, and what was counted of their waits."""

    def __init__(self, lab: Lab, patience: int = PATIENCE) -> None:
        self.splice = SpliceLab(lab, SpliceSettings(patience=patience))

    def waits(self) -> tuple[int, int]:
        """Answered, and not."""
        counters = self.splice.controller.counters()
        return counters["answered"], counters["unanswered"]

    def patience(self, flow: ScratchFlow) -> tuple[bool, bool]:
        """Whether the server would wait, and the client."""
        assert flow.agent.flow is not None
        ways = self.splice.splicer.look(flow.agent.flow)
        assert ways is not None
        return bool(ways[0]["patient"]), bool(ways[1]["patient"])

    def patient(self, flow: ScratchFlow) -> bool:
        """Whether both would."""
        return all(self.patience(flow))

    def until(self, flow: ScratchFlow, condition: Callable[[], bool], what: str, think: float = 0.0) -> None:
        """Exchange, one after the other, until it is so; the client thinks before each."""
        deadline = time.monotonic() + patient(SECONDS)
        exchange(flow.client)
        while not condition():
            assert time.monotonic() < deadline, f"never: {what}"
            if think:
                time.sleep(think)
            exchange(flow.client)


@needs_two
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_both_ends_of_an_exchange_come_to_wait(lab: Lab, family: Family) -> None:
    exchanges = Exchanges(lab)
    with exchanges.splice.spliced(family) as flow, serving([flow.server]), preceding():
        exchanges.until(flow, lambda: exchanges.waits()[0] > ENOUGH, "both wait for each other")


@needs_two
def test_a_thread_that_serves_two_sockets_does_not(lab: Lab) -> None:
    """Its clients are threads of their own, which do nothing else and would; they do not either, since it would not."""
    exchanges = Exchanges(lab)
    with ExitStack() as stack:
        flows = [stack.enter_context(exchanges.splice.spliced(FAMILIES[0])) for _ in range(2)]
        stack.enter_context(serving([flow.server for flow in flows]))
        clients = [stack.enter_context(ThreadPoolExecutor(1)) for _ in flows]
        for _ in range(ENOUGH):
            for client, flow in zip(clients, flows, strict=True):
                client.submit(exchange, flow.client).result()
        assert [exchanges.patience(flow) for flow in flows] == [(False, True)] * 2
        assert exchanges.waits() == (0, 0)


def test_nobody_waits_for_an_end_on_the_same_processor(lab: Lab) -> None:
    """Who waited there would keep the other from answering."""
    exchanges = Exchanges(lab)
    before = os.sched_getaffinity(0)
    with exchanges.splice.spliced(FAMILIES[0]) as flow, serving([flow.server], min(before)):
        os.sched_setaffinity(0, {min(before)})
        try:
            for _ in range(ENOUGH):
                exchange(flow.client)
        finally:
            os.sched_setaffinity(0, before)
        assert exchanges.waits() == (0, 0)


def test_nobody_waits_where_there_is_no_patience(lab: Lab) -> None:
    """As on a machine with one processor."""
    exchanges = Exchanges(lab, patience=0)
    with exchanges.splice.spliced(FAMILIES[0]) as flow, serving([flow.server]):
        for _ in range(ENOUGH):
            exchange(flow.client)
        assert exchanges.waits() == (0, 0)


@needs_two
def test_nobody_waits_once_the_splice_is_off(lab: Lab) -> None:
    exchanges = Exchanges(lab)
    with exchanges.splice.spliced(FAMILIES[0]) as flow, serving([flow.server]):
        with preceding():
            exchanges.until(flow, lambda: exchanges.waits()[0] > 0, "both wait for each other")
        exchanges.splice.controller.switch(on=False)
        exchange(flow.client)
        before = exchanges.waits()
        for _ in range(ENOUGH):
            exchange(flow.client)
        assert exchanges.waits() == before


@needs_two
def test_a_wait_that_is_not_answered_ends_and_is_the_last(lab: Lab) -> None:
    exchanges = Exchanges(lab)
    with exchanges.splice.spliced(FAMILIES[0]) as flow, serving([flow.server]), preceding():

        def unanswered() -> bool:
            exchanges.until(flow, lambda: exchanges.patient(flow), "both would wait", THINK)
            before = exchanges.waits()[1]
            flow.client.sendall(HUSH)
            return exchanges.waits()[1] > before

        wait_until(unanswered, "a wait was in vain", SECONDS)
        assert not exchanges.patient(flow)


@needs_two
@pytest.mark.parametrize("what", ["bytes", "end"])
def test_what_comes_through_the_relay_ends_a_wait(lab: Lab, what: str) -> None:
    """It is there before the message that is never answered is sent: then both that and the server's wait before it are
    answered, and none is not.
    """
    exchanges = Exchanges(lab)

    def seen() -> bool:
        with exchanges.splice.spliced(FAMILIES[0]) as flow, serving([flow.server]), preceding():
            exchanges.until(flow, lambda: exchanges.patient(flow), "both would wait", THINK)
            relay = flow.agent.ends[0]
            exchange(flow.client)
            answered, unanswered = exchanges.waits()
            if what == "bytes":
                relay.send(b"!")
            else:
                relay.shutdown(socket.SHUT_WR)
            select.select((flow.client,), (), ())
            flow.client.sendall(HUSH)
            return exchanges.waits() == (answered + 2, unanswered)

    wait_until(seen, f"a wait was ended by {what}", SECONDS)
