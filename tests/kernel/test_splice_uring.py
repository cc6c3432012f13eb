"""Programs that read and write with io_uring: their bytes are exact, and what the splice cannot serve is kept out."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import random
import socket
import threading

import pytest

from nodeagent.splice.abi import Flag
from nodeagent.splice.scratch import ScratchFlow
from nodeagent.splice.splicer import SpliceState
from tests.kernel import uring
from tests.kernel.conftest import Family, Lab
from tests.kernel.splicing import Sender, SpliceLab, read_all, transfer, wait_until
from tests.kernel.uring import Message, Ring, Vector, ring
from tests.support.degraded import can_splice
from tests.support.pace import patient

pytestmark = pytest.mark.splice

SIZE = 12 << 20
PIECE = 200_000
ROUNDS = 12
NOWHERE = 2**64 - 1
"""The offset of what has none."""


@pytest.fixture
def splice(lab: Lab) -> SpliceLab | None:
    return SpliceLab(lab) if can_splice() else None


def counted(splice: SpliceLab, flow: ScratchFlow) -> tuple[int, int]:
    found = splice.splicer.counters(flow.agent.flow or 0)
    assert found is not None
    return found.sent, found.received


def _write(on: Ring, code: int, end: socket.socket, data: ctypes.Array[ctypes.c_char], at: int, size: int) -> int:
    """One request for some bytes of the memory; how many were taken."""
    where = ctypes.addressof(data) + at
    if code in (uring.WRITE, uring.SEND):
        return on.do(code, end.fileno(), where, size)
    vector = Vector(where, size)
    if code == uring.WRITEV:
        return on.do(code, end.fileno(), vector, 1)
    return on.do(code, end.fileno(), Message(None, 0, ctypes.pointer(vector), 1, None, 0, 0), 1)


def _write_all(end: socket.socket, content: bytes, dice: random.Random) -> None:
    """Every kind of request, in any order."""
    data, at = ctypes.create_string_buffer(content, SIZE), 0
    with ring() as on:
        while at < SIZE:
            code = dice.choice((uring.WRITE, uring.SEND, uring.WRITEV, uring.SENDMSG))
            at += _write(on, code, end, data, at, min(dice.choice((1, 5000, PIECE)), SIZE - at))


def _read_pausing(end: socket.socket) -> str:
    """Its digest, by a receiver that stops now and then."""
    places = [SIZE // 4, SIZE // 2, SIZE - PIECE]

    def pause(got: int) -> None:
        if places and got >= places[0]:
            del places[0]
            threading.Event().wait(0.1)

    return read_all(end, SIZE, pause)


@pytest.mark.parametrize("blocking", [False, True], ids=["non-blocking", "blocking"])
def test_writers(splice: SpliceLab, family: Family, blocking: bool) -> None:
    """Once more if too little of it was spliced: a receiver that waits for the interpreter falls behind."""
    content, dice = os.urandom(SIZE), random.Random(5)
    digest = hashlib.sha256(content).hexdigest()
    with splice.spliced(family) as flow:
        flow.server.settimeout(patient(20))
        before = counted(splice, flow)[0]
        for _ in range(ROUNDS):
            flow.client.setblocking(blocking)
            writer = threading.Thread(target=_write_all, args=(flow.client, content, dice))
            writer.start()
            assert _read_pausing(flow.server) == digest
            writer.join()
            flow.client.settimeout(patient(2))
            transfer(flow.client, flow.server, 64 << 10)  # a verdict may still hold for 32 KiB
            if spliced_enough := counted(splice, flow)[0] - before > SIZE // 2:
                break
        assert spliced_enough, "nearly all of it was relayed"
        flow.warm_up()


def _read(on: Ring, code: int, end: socket.socket, into: ctypes.Array[ctypes.c_char]) -> int:
    if code in (uring.READ, uring.RECV):
        return on.do(code, end.fileno(), into, len(into))
    vector = Vector(ctypes.addressof(into), len(into))
    if code == uring.READV:
        return on.do(code, end.fileno(), vector, 1)
    return on.do(code, end.fileno(), Message(None, 0, ctypes.pointer(vector), 1, None, 0, 0), 1)


@pytest.mark.parametrize("code", [uring.RECV, uring.READ, uring.READV, uring.RECVMSG])
@pytest.mark.parametrize("blocking", [False, True], ids=["non-blocking", "blocking"])
def test_readers(splice: SpliceLab, family: Family, blocking: bool, code: int) -> None:
    """Spliced or relayed, whichever the kernel's way of waiting allows; every byte as it was sent."""
    into = ctypes.create_string_buffer(PIECE)
    with splice.flow(family) as flow, ring() as on:
        flow.server.setblocking(blocking)
        for _ in range(6):
            flow.client.sendall(b"question")
            got = _read(on, code, flow.server, into)
            assert into.raw[:got] == b"question"
            flow.server.sendall(b"answer")
            assert flow.client.recv(10) == b"answer"
        flow.client.settimeout(patient(20))
        sender = Sender(flow.client, SIZE)
        sender.start()
        found, left = hashlib.sha256(), SIZE
        while left:
            got = _read(on, code, flow.server, into)
            assert got
            found.update(into.raw[:got])
            left -= got
        sender.join()
        assert found.hexdigest() == sender.digest
        assert splice.splicer.broken() == []
        assert flow.agent.state is not SpliceState.WAITING


def test_a_request_that_waits_gets_what_comes(splice: SpliceLab, family: Family) -> None:
    into = ctypes.create_string_buffer(100)
    with splice.spliced(family) as flow, ring() as on:
        for word in (b"first", b"second"):
            number = on.submit(uring.RECV, flow.server.fileno(), into, len(into))
            assert on.ready() is None
            before = counted(splice, flow)[0]
            flow.client.sendall(word)
            done = on.wait()
            assert (done.number, into.raw[: done.result]) == (number, word)
            assert counted(splice, flow)[0] - before == len(word), "it was relayed"


def test_a_request_that_waits_sees_the_end_and_the_reset(splice: SpliceLab, family: Family) -> None:
    into = ctypes.create_string_buffer(100)
    with splice.spliced(family) as flow, ring() as on:
        on.submit(uring.RECV, flow.server.fileno(), into, len(into))
        flow.client.shutdown(socket.SHUT_WR)
        assert on.wait().result == 0
    with splice.spliced(family) as flow, ring() as on:
        on.submit(uring.RECV, flow.server.fileno(), into, len(into))
        flow.agent.cut()
        assert on.wait().result == -errno.ECONNRESET


def test_a_splice_request_is_relayed_or_reported(splice: SpliceLab, family: Family) -> None:
    """IORING_OP_SPLICE reads as splice(2) does: past what was redirected."""
    with splice.spliced(family) as flow, ring() as on:
        reader, writer = os.pipe()
        flow.server.setblocking(True)
        try:
            number = on.submit(uring.SPLICE, writer, NOWHERE, 100, offset=NOWHERE, other=flow.server.fileno())
            wait_until(lambda: _suspected(splice, flow), "the kernel looks into TCP's queue")
            flow.client.sendall(b"relayed")
            done = on.wait()
            assert (done.number, done.result) == (number, 7)
            assert os.read(reader, 100) == b"relayed"
            assert splice.splicer.broken() == []
        finally:
            os.close(reader)
            os.close(writer)
    with splice.spliced(family) as flow, ring() as on:
        reader, writer = os.pipe()
        try:
            flow.client.sendall(b"redirected")
            on.submit(uring.SPLICE, writer, NOWHERE, 100, offset=NOWHERE, other=flow.server.fileno())
            wait_until(lambda: splice.splicer.broken() == [(flow.agent.flow, Flag.OUT_SPLICE)], "it is reported")
            flow.agent.cut()
            assert on.wait().result <= 0
        finally:
            os.close(reader)
            os.close(writer)


def _suspected(splice: SpliceLab, flow: ScratchFlow) -> bool:
    ways = splice.splicer.look(flow.agent.flow or 0)
    return ways is not None and bool(ways[0]["reader"] & 8)


def _send_zero_copy(on: Ring, end: socket.socket, content: bytes) -> int:
    """As io_uring answers; the memory is used for something else as soon as the kernel says that it may be."""
    data = ctypes.create_string_buffer(content, len(content))
    on.submit(uring.SEND_ZC, end.fileno(), data, len(content))
    done = on.wait()
    if done.flags & uring.CQE_MORE:
        assert on.wait().flags & uring.CQE_NOTIFICATION
    ctypes.memset(data, 0, len(content))
    return done.result


@pytest.mark.parametrize("who", ["client", "server"])
def test_zero_copy_requests_keep_a_flow_out(splice: SpliceLab, family: Family, who: str) -> None:
    """They ask for no socket option, and the kernel refuses them on a socket in a map: one that has made any stays out
    of it, also one that was made before anybody knew of the flow."""
    content = os.urandom(PIECE)
    with splice.flow(family) as flow, ring() as on:
        sender, reader = (flow.client, flow.server) if who == "client" else (flow.server, flow.client)
        reader.settimeout(patient(5))
        for _ in range(8):
            taken = _send_zero_copy(on, sender, content)
            assert taken > 0
            assert read_all(reader, taken) == hashlib.sha256(content[:taken]).hexdigest()
            reader.sendall(b"answer")
            assert sender.recv(10) == b"answer"
        assert splice.splicer.reason(flow.agent.flow or 0) == Flag.OUT_ZEROCOPY
        assert counted(splice, flow) == (0, 0)


def test_a_first_zero_copy_request_on_a_spliced_socket_is_refused(splice: SpliceLab, family: Family) -> None:
    """As on a kernel that has none: the program sends another way."""
    with splice.spliced(family) as flow, ring() as on:
        assert _send_zero_copy(on, flow.client, b"refused") == -errno.EOPNOTSUPP
        transfer(flow.client, flow.server, 1 << 20)
        flow.warm_up()
