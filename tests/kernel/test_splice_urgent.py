"""Urgent data (MSG_OOB) on spliced sockets: it takes TCP, at its place in the stream, and so does what follows."""

from __future__ import annotations

import ctypes
import select
import socket
import threading

import pytest

from nodeagent.net.marks import at_mark
from nodeagent.splice.abi import Flag
from nodeagent.splice.scratch import ScratchLeg
from tests.kernel import uring
from tests.kernel.conftest import FAMILIES, Family, Lab
from tests.kernel.splicing import SpliceLab
from tests.kernel.uring import Message, Vector, ring

pytestmark = pytest.mark.splice

V4 = FAMILIES[0]


@pytest.fixture
def splice(lab: Lab) -> SpliceLab:
    return SpliceLab(lab)


@pytest.fixture(params=[False, True], ids=["accepted", "dialled"])
def dialled(request: pytest.FixtureRequest) -> bool:
    return request.param


def flags(leg: ScratchLeg) -> Flag:
    return leg.splicer.standing(leg.number or 0)[1]


def in_place(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


def alarmed(end: socket.socket) -> None:
    """Wait for the urgent byte to be reported."""
    poll = select.poll()
    poll.register(end, select.POLLPRI)
    assert poll.poll(5000), "no urgent byte was reported"


def to_mark(end: socket.socket, size: int) -> bytes:
    """Read so many bytes, of which none is urgent."""
    found = b""
    while len(found) < size:
        found += end.recv(size - len(found))
    assert at_mark(end)
    return found


@pytest.mark.parametrize("way", ["to-server", "to-client"])
def test_an_urgent_byte_is_not_put_into_a_spliced_stream(splice: SpliceLab, family: Family, way: str) -> None:
    with splice.spliced(family) as flow:
        sender, receiver = (flow.client, flow.server) if way == "to-server" else (flow.server, flow.client)
        sender.sendall(b"abc")
        sender.send(b"\xff", socket.MSG_OOB)
        sender.sendall(b"def")
        sender.shutdown(socket.SHUT_WR)
        found = b""
        while data := receiver.recv(100):
            found += data
        assert found == b"abcdef"  # the agent of this test drops the urgent byte
        assert splice.splicer.reason(flow.agent.flow or 0) == Flag.OUT_URGENT


@pytest.mark.parametrize("way", ["to-agent", "to-application"])
def test_an_urgent_byte_on_a_leg_is_at_its_mark(splice: SpliceLab, family: Family, dialled: bool, way: str) -> None:
    with splice.scratch.leg(family.af, family.loopback, dialled=dialled) as leg:
        leg.warm_up()
        sender, receiver = (leg.app, leg.agent) if way == "to-agent" else (leg.agent, leg.app)
        in_place(receiver)
        sender.sendall(b"abc")
        assert splice.splicer.unread(leg.number or 0) != (0, 0)
        sender.send(b"xy", socket.MSG_OOB)  # the last byte is the urgent one
        sender.sendall(b"def")
        assert Flag.OUT_URGENT in flags(leg)
        alarmed(receiver)
        assert to_mark(receiver, 4) == b"abcx"
        assert splice.splicer.unread(leg.number or 0) == (0, 0)
        assert receiver.recv(1) == b"y"
        assert not at_mark(receiver)
        assert receiver.recv(100) == b"def"


def test_what_is_not_read_is_told_by_direction(splice: SpliceLab, dialled: bool) -> None:
    with splice.scratch.leg(V4.af, V4.loopback, dialled=dialled) as leg:
        leg.warm_up()
        number = leg.number or 0
        leg.app.sendall(b"abc")
        assert splice.splicer.unread(number) == ((0, 3) if dialled else (3, 0))
        leg.agent.sendall(b"de")
        assert splice.splicer.unread(number) == ((2, 3) if dialled else (3, 2))
        assert leg.agent.recv(10) + leg.app.recv(10) == b"abcde"
        assert splice.splicer.unread(number) == (0, 0)
    assert splice.splicer.unread(number) == (0, 0)


def test_the_receiver_is_not_asked_to_read_in_place(splice: SpliceLab, family: Family) -> None:
    """A server as they are by default: out of band it gets the byte, and the stream without it."""
    with splice.scratch.leg(family.af, family.loopback) as leg:
        leg.warm_up()
        leg.app.sendall(b"abc")
        leg.app.send(b"!", socket.MSG_OOB)
        leg.app.sendall(b"def")
        alarmed(leg.agent)
        assert leg.agent.recv(100) == b"abc"
        assert leg.agent.recv(1, socket.MSG_OOB) == b"!"
        assert leg.agent.recv(100) == b"def"


def test_who_reads_redirected_bytes_as_urgent_ones_is_reset(splice: SpliceLab) -> None:
    """The kernel gives them out: the stream lacks them."""
    with splice.spliced(V4) as flow:
        flow.client.sendall(b"abc")
        assert flow.server.recv(1, socket.MSG_OOB) == b"a"
        assert splice.splicer.broken() == [(flow.agent.flow, Flag.OUT_URGENT)]


def test_asking_for_urgent_data_where_there_is_none_harms_nothing(splice: SpliceLab) -> None:
    with splice.spliced(V4) as flow:
        flow.server.setblocking(False)
        with pytest.raises(BlockingIOError):
            flow.server.recv(1, socket.MSG_OOB)
        assert splice.splicer.broken() == []
        assert splice.splicer.reason(flow.agent.flow or 0) == Flag(0)


def test_an_urgent_byte_among_the_bytes_of_another_thread(splice: SpliceLab) -> None:
    """Every byte arrives, and the urgent one is at its mark."""
    with splice.scratch.leg(V4.af, V4.loopback) as leg:
        leg.warm_up()
        in_place(leg.agent)
        stop = threading.Event()

        def flood() -> None:
            while not stop.is_set():
                leg.app.sendall(b"a" * 64)

        flooder = threading.Thread(target=flood)
        flooder.start()
        found, urgent = leg.agent.recv(64), b""
        leg.app.send(b"!", socket.MSG_OOB)
        while not urgent:
            if splice.splicer.unread(leg.number or 0)[0] == 0 and at_mark(leg.agent):
                urgent = leg.agent.recv(1)
            else:
                found += leg.agent.recv(4096)
        stop.set()
        while flooder.is_alive():
            found += leg.agent.recv(65536, socket.MSG_DONTWAIT) if select.select([leg.agent], [], [], 0.01)[0] else b""
        leg.app.shutdown(socket.SHUT_WR)
        while data := leg.agent.recv(65536):
            found += data
        assert urgent == b"!"
        assert set(found) == {ord("a")}
        assert len(found) % 64 == 0


def test_an_urgent_send_of_io_uring_is_not_put_into_the_stream(splice: SpliceLab) -> None:
    """Its flags are in no register; what else this process sends is relayed as well from then on."""
    with splice.scratch.leg(V4.af, V4.loopback) as leg, ring() as on:
        leg.warm_up()
        in_place(leg.agent)
        leg.app.sendall(b"abc")
        assert on.do(uring.SEND, leg.app.fileno(), ctypes.create_string_buffer(b"!", 1), 1, flags=socket.MSG_OOB) == 1
        leg.app.sendall(b"def")
        assert Flag.OUT_URGENT in flags(leg)
        alarmed(leg.agent)
        assert to_mark(leg.agent, 3) == b"abc"
        assert leg.agent.recv(1) == b"!"
        assert leg.agent.recv(10) == b"def"


def test_an_ordinary_send_of_io_uring_is_spliced(splice: SpliceLab) -> None:
    with splice.scratch.leg(V4.af, V4.loopback) as leg, ring() as on:
        leg.warm_up()
        assert on.do(uring.SEND, leg.app.fileno(), ctypes.create_string_buffer(b"!", 1), 1) == 1
        assert splice.splicer.unread(leg.number or 0) == (1, 0)
        assert leg.agent.recv(10) == b"!"


@pytest.mark.parametrize("how", ["sendmsg", "sendmmsg"])
def test_urgent_data_by_other_system_calls(splice: SpliceLab, how: str) -> None:
    with splice.scratch.leg(V4.af, V4.loopback) as leg:
        leg.warm_up()
        in_place(leg.agent)
        if how == "sendmsg":
            leg.app.sendmsg([b"ab", b"!"], [], socket.MSG_OOB)
        else:
            vector = Vector(*pointer_and_size(whole := ctypes.create_string_buffer(b"ab!", 3)))
            message = (Message * 2)(Message(None, 0, ctypes.pointer(vector), 1, None, 0, 0))  # msg_len is in the second
            assert ctypes.CDLL(None).sendmmsg(leg.app.fileno(), message, 1, socket.MSG_OOB) == 1
            del whole
        assert to_mark(leg.agent, 2) == b"ab"
        assert leg.agent.recv(1) == b"!"
        assert Flag.OUT_URGENT in flags(leg)


def pointer_and_size(memory: ctypes.Array[ctypes.c_char]) -> tuple[int, int]:
    return ctypes.addressof(memory), len(memory)
