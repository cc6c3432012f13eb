"""Sender and reader on processors of their own take turns at the reader's socket; neither puts the other to sleep."""

from __future__ import annotations

import os
import resource
import select
import socket
import struct
from collections.abc import Callable

import pytest

from nodeagent.splice.controller import SpliceSettings
from nodeagent.splice.scratch import ScratchFlow
from tests.kernel.conftest import FAMILIES, Lab
from tests.kernel.splicing import SpliceLab, wait_until

pytestmark = pytest.mark.splice

PIECE = 128 << 10
SIZE = 32 << 20
LIMIT = 2 * SIZE
"""Never reached: nothing goes to the relay, whoever is slower."""
PROMPT = 4
ROUNDS = 3
"""``MESH_SPLICE_PROMPT``."""


def _sleeps(processor: int, work: Callable[[], None]) -> tuple[int, int]:
    """Run it on that processor, before all others there: its process, and a pipe that tells how often it slept."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.sched_setaffinity(0, {processor})
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
            work()
            os.write(writer, struct.pack("q", resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw))
        finally:
            os._exit(0)
    os.close(writer)
    return pid, reader


def _send(to: socket.socket) -> None:
    piece, left = memoryview(bytes(PIECE)), SIZE
    while left:
        try:
            left -= to.send(piece[:left])
        except BlockingIOError:
            select.select((), (to,), ())


def _read(source: socket.socket) -> None:
    buffer, left = bytearray(PIECE), SIZE
    while left:
        try:
            left -= source.recv_into(buffer, min(PIECE, left))
        except BlockingIOError:
            select.select((source,), (), ())


def _sleeps_of_both(flow: ScratchFlow) -> int:
    """... in one bulk transfer from client to server, by event loops."""
    for end in (flow.client, flow.server):
        end.setblocking(False)
    here, there = sorted(os.sched_getaffinity(0))[:2]
    running = [_sleeps(there, lambda: _read(flow.server)), _sleeps(here, lambda: _send(flow.client))]
    total = 0
    for pid, pipe in running:
        total += struct.unpack("q", os.read(pipe, 8))[0]
        os.close(pipe)
        os.waitpid(pid, 0)
    return total


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="nobody waits on one processor")
def test_two_processors_do_not_put_each_other_to_sleep(lab: Lab) -> None:
    with SpliceLab(lab, SpliceSettings(limit=LIMIT)).spliced(FAMILIES[0]) as flow:
        in_turns = min(_sleeps_of_both(flow) for _ in range(ROUNDS))  # both may have to share a processor for a while
    with SpliceLab(lab, SpliceSettings(limit=LIMIT, patience=0), "impatient").spliced(FAMILIES[0]) as flow:
        asleep = _sleeps_of_both(flow)
    assert in_turns < asleep / 2, f"{in_turns} times instead of {asleep}"


def test_a_reader_waits_only_while_more_comes_at_once(lab: Lab) -> None:
    """It is told by how soon the sender sent after the reader found nothing, time after time."""
    splice = SpliceLab(lab)
    with splice.spliced(FAMILIES[0]) as flow:
        flow.server.setblocking(False)

        def exchange(late: bool) -> int:
            with pytest.raises(BlockingIOError):
                flow.server.recv(1)
            if late:
                assert select.select((flow.server,), (), (), 0.002) == ([], [], [])
            flow.client.sendall(b"?")
            assert flow.server.recv(1) == b"?"
            assert flow.agent.flow is not None
            ways = splice.splicer.look(flow.agent.flow)
            assert ways is not None
            return int(ways[0]["prompt"])

        assert exchange(late=True) == 0
        wait_until(lambda: exchange(late=False) == PROMPT, "more came at once so many times")
        assert exchange(late=True) == 0
