"""Sockets come into the kernel's map in two steps: control marks them, and whoever walks the marks next puts them in.
What happens between the two, for example because a worker died there, harms nobody.
"""

from __future__ import annotations

import errno
import socket

import pytest

from nodeagent.splice.abi import Flag, Operation, SpliceAnswer
from nodeagent.splice.scratch import ScratchLeg
from tests.kernel.conftest import FAMILIES, Lab
from tests.kernel.splicing import SpliceLab

pytestmark = pytest.mark.splice

V4 = FAMILIES[0]


@pytest.fixture
def splice(lab: Lab) -> SpliceLab:
    return SpliceLab(lab)


def mark(leg: ScratchLeg) -> int:
    """As far as a worker comes that dies between the two steps."""
    leg.app.sendall(b"?")
    assert leg.agent.recv(1) == b"?"
    assert leg._prepare()
    assert leg.splicer._ask(Operation.ENABLE, leg.number or 0) is SpliceAnswer.MARKED
    return leg.number or 0


def flags(leg: ScratchLeg) -> Flag:
    return leg.splicer.standing(leg.number or 0)[1]


def test_whoever_comes_next_puts_them_in(splice: SpliceLab) -> None:
    with splice.scratch.leg() as leg, splice.scratch.leg() as next_one:
        mark(leg)
        assert splice.held() == 0
        assert Flag.ENROLLED not in flags(leg)
        next_one.warm_up()
        assert splice.held() == 4
        assert Flag.ENROLLED in flags(leg)
        leg.warm_up()


def test_a_flow_that_was_forgotten_stays_out(splice: SpliceLab) -> None:
    with splice.scratch.leg() as leg, splice.scratch.leg() as next_one:
        splice.splicer.forget(mark(leg))
        next_one.warm_up()
        assert splice.held() == 2
        leg.app.sendall(b"by TCP")
        assert leg.agent.recv(10) == b"by TCP"


def test_a_flow_that_went_out_meanwhile_stays_out(splice: SpliceLab) -> None:
    with splice.scratch.leg() as leg, splice.scratch.leg() as next_one:
        mark(leg)
        with pytest.raises(OSError, match="not supported") as refused:
            leg.app.setsockopt(socket.SOL_SOCKET, 60, 1)  # SO_ZEROCOPY
        assert refused.value.errno == errno.EOPNOTSUPP
        next_one.warm_up()
        assert splice.held() == 2
        assert Flag.ENROLLED not in flags(leg)
        leg.app.sendall(b"by TCP")
        assert leg.agent.recv(10) == b"by TCP"


def test_a_socket_that_was_closed_meanwhile_is_passed_over(splice: SpliceLab) -> None:
    with splice.scratch.leg() as leg, splice.scratch.leg() as next_one:
        mark(leg)
        leg.app.close()
        leg.agent.close()
        next_one.warm_up()
        assert splice.held() == 2
        assert Flag.ENROLLED not in flags(leg)


def test_a_closed_socket_leaves_by_itself(splice: SpliceLab) -> None:
    with splice.spliced(V4):
        assert splice.held() == 2
    assert splice.held() == 0
