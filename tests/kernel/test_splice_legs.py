"""Legs, one connection between an application and the agent: bytes go past TCP, exactly, bounded, and back to TCP."""

from __future__ import annotations

import random
import socket
import threading

import pytest

from nodeagent.splice.abi import Flag, SpliceCount
from nodeagent.splice.scratch import ScratchLeg
from nodeagent.splice.selftest import Item, Result, SelfTest
from tests.kernel.conftest import FAMILIES, Family, Lab
from tests.kernel.splicing import Sender, SpliceLab, read_all, transfer, wait_until

pytestmark = pytest.mark.splice

V4 = FAMILIES[0]
LEG_LIMIT = 1 << 20
TCP_BUFFERS = 24 << 20
"""Ordinary TCP buffers of two sockets at their very most."""


@pytest.fixture
def splice(lab: Lab) -> SpliceLab:
    return SpliceLab(lab)


@pytest.fixture(params=[False, True], ids=["accepted", "dialled"])
def dialled(request: pytest.FixtureRequest) -> bool:
    return request.param


def ends(leg: ScratchLeg) -> list[tuple[socket.socket, socket.socket]]:
    return [(leg.app, leg.agent), (leg.agent, leg.app)]


def flags(leg: ScratchLeg) -> Flag:
    return leg.splicer.standing(leg.number or 0)[1]


def test_small_messages_go_past_tcp_both_ways(splice: SpliceLab, family: Family, dialled: bool) -> None:
    with splice.scratch.leg(family.af, family.loopback, dialled=dialled) as leg:
        leg.warm_up()
        before = splice.controller.counters()["bytes"]
        for number in range(1000):
            for sender, receiver in ends(leg):
                sender.sendall(number.to_bytes(4, "big"))
                assert receiver.recv(10) == number.to_bytes(4, "big")
        assert splice.controller.counters()["bytes"] - before == 8000
    assert splice.controller.counters()[SpliceCount.LEGS.name.lower()] == 1


def test_bulk_both_ways_at_once_with_random_writes(splice: SpliceLab, family: Family, dialled: bool) -> None:
    """Whatever part of it takes TCP: what is read is what was sent."""
    size = 24 << 20
    with splice.scratch.leg(family.af, family.loopback, dialled=dialled) as leg:
        leg.warm_up()
        senders = [Sender(sender, size, seed) for seed, (sender, _) in enumerate(ends(leg))]
        found: dict[int, str] = {}
        readers = [
            threading.Thread(target=lambda n=n, r=r: found.update({n: read_all(r, size)}))  # type: ignore[misc]
            for n, (_, r) in enumerate(ends(leg))
        ]
        for thread in (*senders, *readers):
            thread.start()
        for thread in (*senders, *readers):
            thread.join()
        assert found == {n: sender.digest for n, sender in enumerate(senders)}


def test_an_agent_that_does_not_read_holds_the_application(splice: SpliceLab, family: Family) -> None:
    with splice.scratch.leg(family.af, family.loopback) as leg:
        leg.warm_up()
        leg.app.setblocking(False)
        sent, piece = 0, random.Random(1).randbytes(100_000)
        with pytest.raises(BlockingIOError):
            while sent < 1 << 30:
                sent += leg.app.send(piece)
        assert 0 < splice.controller.queued() <= LEG_LIMIT
        assert sent < LEG_LIMIT + TCP_BUFFERS
        assert Flag.OUT_BULK in flags(leg)
        assert leg.splicer.broken({leg.number or 0}) == [(leg.number, Flag.OUT_BULK)]
        assert not leg.splicer.leave(leg.number or 0), "bytes wait yet"
        left = sent
        while left:
            left -= len(leg.agent.recv(1 << 20))
        assert leg.splicer.leave(leg.number or 0)
        assert splice.controller.queued() == 0


def test_it_leaves_in_mid_stream_under_a_sender_at_full_speed(splice: SpliceLab, family: Family, dialled: bool) -> None:
    size = 64 << 20
    with splice.scratch.leg(family.af, family.loopback, dialled=dialled) as leg:
        leg.warm_up()
        sender = Sender(leg.app, size)
        sender.start()
        wait_until(
            lambda: Flag.OUT_BULK in flags(leg), "the leg is full", 20
        )  # a reader that keeps up would never see it
        left = [False]

        def look(_: int) -> None:
            if not left[0]:
                left[0] = leg.splicer.leave(leg.number or 0)

        found = read_all(leg.agent, size, look)
        sender.join()
        assert found == sender.digest
        assert left == [True] and Flag.LEFT in flags(leg)
        assert splice.held() == 0
        for sender_end, receiver in ends(leg):
            transfer(sender_end, receiver, 8 << 20)


def test_what_is_in_does_not_leave(splice: SpliceLab) -> None:
    with splice.scratch.leg() as leg:
        leg.warm_up()
        assert leg.splicer.leave(leg.number or 0)
        assert Flag.LEFT not in flags(leg)
        leg.warm_up()


def test_the_kill_switch_takes_it_to_tcp_and_back(splice: SpliceLab, family: Family) -> None:
    with splice.scratch.leg(family.af, family.loopback) as leg:
        leg.warm_up()
        splice.controller.switch(on=False)
        before = splice.controller.counters()["bytes"]
        for sender, receiver in ends(leg):
            transfer(sender, receiver, 1 << 20)
        assert splice.controller.counters()["bytes"] == before
        splice.controller.switch(on=True)
        leg.warm_up()


def test_a_program_that_blocks_stays_with_tcp(splice: SpliceLab, family: Family, dialled: bool) -> None:
    with splice.scratch.leg(family.af, family.loopback, dialled=dialled) as leg:
        leg.app.settimeout(None)
        with pytest.raises(TimeoutError, match="not joined"):
            leg.warm_up()
        for sender, receiver in ends(leg):
            transfer(sender, receiver, 1 << 20)


def test_an_end_comes_right_behind_what_was_sent(splice: SpliceLab, family: Family, dialled: bool) -> None:
    for first in (0, 1):
        with splice.scratch.leg(family.af, family.loopback, dialled=dialled) as leg:
            leg.warm_up()
            for sender, receiver in ends(leg)[first:] + ends(leg)[:first]:
                sender.sendall(b"x" * 100_000)
                sender.shutdown(socket.SHUT_WR)
                read_all(receiver, 100_000)
                assert receiver.recv(1) == b""


def test_a_close_lets_what_was_sent_arrive(splice: SpliceLab, family: Family, dialled: bool) -> None:
    with splice.scratch.leg(family.af, family.loopback, dialled=dialled) as leg:
        leg.warm_up()
        leg.app.sendall(b"x" * 100_000)
        leg.app.close()
        read_all(leg.agent, 100_000)
        assert leg.agent.recv(1) == b""


def test_an_agent_that_is_gone_is_a_reset(splice: SpliceLab, family: Family, dialled: bool) -> None:
    with splice.scratch.leg(family.af, family.loopback, dialled=dialled) as leg:
        leg.warm_up()
        leg.agent.sendall(b"unread")
        leg.agent.close()
        with pytest.raises(ConnectionResetError):
            while leg.app.recv(10):
                pass


def test_nothing_is_left_of_it(splice: SpliceLab, dialled: bool) -> None:
    for _ in range(20):
        with splice.scratch.leg(dialled=dialled) as leg:
            leg.warm_up()
            leg.app.sendall(b"unread")
    splice.controller.sweep()
    assert splice.controller.status().flows == 0
    assert splice.controller.queued() == 0


def test_a_failed_trial_of_legs_switches_off_legs_only(splice: SpliceLab) -> None:
    splice.controller.obey(SelfTest((Item("bulk", Result.PASS), Item("leg-ends", Result.FAIL, "lost")), 1.0))
    assert splice.controller.status().running
    assert splice.controller.legs_off == "the self-test failed: leg-ends: lost"
    with splice.spliced(V4):
        pass
    with splice.scratch.leg() as leg, pytest.raises(TimeoutError, match="not joined"):
        leg.warm_up()
