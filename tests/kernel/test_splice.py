"""A spliced flow is a TCP connection like any other: bytes, order, ends, in all three families."""

from __future__ import annotations

import socket
import threading

import pytest

from nodeagent.splice.splicer import SpliceState
from tests.kernel.conftest import Family, Lab
from tests.kernel.splicing import Sender, SpliceLab, read_all, transfer
from tests.support.degraded import can_splice

pytestmark = pytest.mark.splice


@pytest.fixture
def splice(lab: Lab) -> SpliceLab | None:
    return SpliceLab(lab) if can_splice() else None


def test_both_directions_are_spliced_after_a_few_exchanges(splice: SpliceLab, family: Family) -> None:
    with splice.flow(family) as flow:
        flow.warm_up()
        assert flow.agent.state is SpliceState.ENROLLED
        before = list(flow.agent.relayed)
        flow.client.sendall(b"ping")
        assert flow.server.recv(100) == b"ping"
        flow.server.sendall(b"pong!")
        assert flow.client.recv(100) == b"pong!"
        assert flow.agent.relayed == before  # nothing of it passed the agent


def test_bytes_arrive_as_they_were_sent(splice: SpliceLab, family: Family) -> None:
    with splice.spliced(family) as flow:
        back = threading.Thread(target=transfer, args=(flow.server, flow.client, 24 << 20, 2))
        back.start()
        transfer(flow.client, flow.server, 24 << 20)
        back.join()
        counted = splice.splicer.counters(flow.agent.flow or 0)
        assert counted is not None
        assert counted.sent + flow.agent.relayed[0] == (24 << 20) + 6
        assert counted.received + flow.agent.relayed[1] == (24 << 20) + 6


def test_an_end_follows_the_last_byte(splice: SpliceLab, family: Family) -> None:
    with splice.spliced(family) as flow:
        sender = Sender(flow.client, 3 << 20, end=True)
        sender.start()
        digest = read_all(flow.server, 3 << 20)
        sender.join()
        assert digest == sender.digest
        assert flow.server.recv(10) == b""
        flow.server.sendall(b"the other direction goes on")  # half-closed
        assert flow.client.recv(100) == b"the other direction goes on"
        flow.server.close()
        assert flow.client.recv(10) == b""


def test_an_end_waits_for_bytes_that_are_not_read_yet(splice: SpliceLab, family: Family) -> None:
    with splice.spliced(family) as flow:
        flow.client.sendall(b"last words")
        flow.client.close()
        flow.server.shutdown(socket.SHUT_WR)
        flow.agent.join(5)  # the agent saw both ends, and closed in order
        assert not flow.agent.is_alive()
        assert flow.server.recv(100) == b"last words"
        assert flow.server.recv(100) == b""


def test_revocation_resets_both_ends_at_once(splice: SpliceLab, family: Family) -> None:
    with splice.spliced(family) as flow:
        flow.agent.cut()
        for end in (flow.client, flow.server):
            with pytest.raises(ConnectionResetError):
                end.recv(10)
