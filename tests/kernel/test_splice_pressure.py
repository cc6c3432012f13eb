"""Receivers that are slow, stop, or go away: memory stays bounded, senders are held, order and bytes are exact."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import socket
import struct
import threading
import time

import pytest

from nodeagent.splice.controller import SpliceController, SpliceSettings
from nodeagent.splice.scratch import ScratchFlow
from tests.kernel.conftest import Family, Lab
from tests.kernel.splicing import Sender, SpliceLab, read_all, tcp_memory, transfer, wait_until
from tests.support.degraded import can_splice
from tests.support.pace import patient

pytestmark = pytest.mark.splice

LIMIT = 4 << 20
TCP_BUFFERS = 24 << 20
"""Ordinary TCP buffers of four sockets at their very most."""
SO_MEMINFO = 55
ALWAYS_SHORT = (1 << 64) - (1 << 40)
"""Pages at which TCP memory is short: -2^40 to the program, which compares it signed. Zero would not do: the kernel's
own count is at or below zero on a quiet machine, where each processor's reserve holds all that is in use."""


@pytest.fixture
def splice(lab: Lab) -> SpliceLab | None:
    return SpliceLab(lab, SpliceSettings(limit=LIMIT)) if can_splice() else None


def ways(splice: SpliceLab, flow: ScratchFlow) -> tuple[dict[str, int], dict[str, int]]:
    found = splice.splicer.look(flow.agent.flow or 0)
    assert found is not None
    return found


def test_a_receiver_that_stops_holds_its_sender(splice: SpliceLab, family: Family) -> None:
    size = 64 << 20
    with splice.spliced(family) as flow:
        flow.client.settimeout(patient(20))
        flow.agent.ends[1].settimeout(patient(20))
        before = tcp_memory()
        sender = Sender(flow.client, size)
        sender.start()
        seen = [-1]

        def held() -> bool:
            stopped, seen[0] = seen[0] == sender.sent, sender.sent
            time.sleep(0.3)
            return stopped and sender.sent > 0

        wait_until(held, "the sender is held", 10)
        assert sender.is_alive()
        to_server, _ = ways(splice, flow)
        assert 0 < to_server["redirected"] - to_server["consumed"] + 6 <= LIMIT
        assert splice.controller.queued() <= LIMIT + 300_000 + 4096
        assert tcp_memory() - before < LIMIT + TCP_BUFFERS
        digest = read_all(flow.server, size)
        sender.join()
        assert digest == sender.digest
        wait_until(lambda: splice.controller.queued() == 0, "nothing is queued")


def test_small_messages_are_bounded_by_what_they_cost(splice: SpliceLab) -> None:
    with splice.spliced(V4) as flow:
        for _ in range(20_000):
            flow.client.send(b"!")
        to_server, _ = ways(splice, flow)
        assert LIMIT // 8192 < to_server["messages"] <= LIMIT // 4096 + 10
        assert splice.controller.queued() <= LIMIT
        read_all(flow.server, 20_000)


@pytest.mark.parametrize("buffers", [None, 16 << 10], ids=["as-made", "small"])
def test_what_waits_leaves_room_for_a_reset(splice: SpliceLab, family: Family, buffers: int | None) -> None:
    """The kernel drops what arrives while the reader is inside its socket if too much waits there, a reset for good."""
    with splice.spliced(family) as flow:
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF) if buffers else ():
            flow.server.setsockopt(socket.SOL_SOCKET, option, buffers or 0)
        flow.client.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += flow.client.send(bytes(100_000))
        assert splice.controller.counters()["limit"] >= 1
        memory = struct.unpack_from("9I", flow.server.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))
        waiting, receive, send, backlog = (memory[place] for place in (0, 1, 3, 7))
        # tcp_add_backlog (net/ipv4/tcp_ipv4.c) of Linux 6.18; the second line is what comes by TCP meanwhile
        dropped_above = 2 * receive + send // 2 + (64 << 10)
        assert waiting + backlog + receive <= dropped_above
        read_all(flow.server, sent)


def test_many_switches_keep_the_order(splice: SpliceLab, family: Family) -> None:
    """The receiver pauses whenever it caught up a little, so that the path changes again and again."""
    size, step = 96 << 20, 6 << 20
    with splice.spliced(family) as flow:
        flow.client.settimeout(patient(20))
        sender = Sender(flow.client, size)
        sender.start()
        last = [0]

        def pause(got: int) -> None:
            if got - last[0] >= step:
                last[0] = got
                time.sleep(patient(0.03))  # long enough for the sender to fill the queue

        digest = read_all(flow.server, size, pause)
        sender.join()
        assert digest == sender.digest
        for _ in range(3):
            transfer(flow.client, flow.server, 1 << 20)
        assert ways(splice, flow)[0]["switches"] >= 2
        assert splice.controller.counters()["limit"] >= 1


@pytest.mark.parametrize("write", [1 << 20, 200_000, 5000], ids=str)
def test_order_between_processes(splice: SpliceLab, family: Family, write: int) -> None:
    """A sender that runs beside its receiver: large non-blocking writes, a receiver that stalls, bytes compared."""
    size, dice = 48 << 20, random.Random(write)
    stalls = sorted(dice.randrange(size) for _ in range(6))
    with splice.spliced(family) as flow:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            flow.client.settimeout(patient(30))
            content = dice.randbytes(size)
            for start in range(0, size, write):
                flow.client.sendall(content[start : start + write])
            os.write(writer, hashlib.sha256(content).hexdigest().encode())
            os._exit(0)

        def pause(got: int) -> None:
            while stalls and got >= stalls[0]:
                del stalls[0]
                time.sleep(dice.choice((0.002, 0.02, 0.05)))

        flow.server.settimeout(patient(30))
        digest = read_all(flow.server, size, pause)
        assert digest == os.read(reader, 100).decode()
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)


def test_the_kill_switch_breaks_nothing(splice: SpliceLab, family: Family) -> None:
    size = 24 << 20
    with splice.spliced(family) as flow:
        sender = Sender(flow.client, size)
        sender.start()
        turned: list[int] = []

        def pause(got: int) -> None:
            if got > len(turned) * (size // 8):
                turned.append(got)
                splice.controller.switch(on=len(turned) % 2 == 0)

        digest = read_all(flow.server, size, pause)
        sender.join()
        assert digest == sender.digest
        splice.controller.switch(on=False)
        relayed = flow.agent.relayed[0]
        transfer(flow.client, flow.server, 1 << 20)
        assert flow.agent.relayed[0] == relayed + (1 << 20)
        splice.controller.switch(on=True)
        flow.warm_up()


def test_disable_and_enable(splice: SpliceLab, family: Family) -> None:
    with splice.spliced(family) as flow:
        number = flow.agent.flow or 0
        flow.client.sendall(b"queued")
        splice.splicer.disable(number)
        flow.client.sendall(b" and relayed")
        assert read(flow.server, 18) == b"queued and relayed"
        assert flow.agent.relayed[0] >= 12
        splice.splicer.enable(number)
        flow.warm_up()


def test_two_threads_write_one_socket(splice: SpliceLab, family: Family) -> None:
    """Messages of both arrive whole and each thread's in order."""
    count, length = 3000, 512
    with splice.spliced(family) as flow:
        flow.client.settimeout(patient(20))

        def write(name: int) -> None:
            for number in range(count):
                flow.client.sendall(bytes([name]) + number.to_bytes(4, "big") + bytes(length - 5))

        writers = [threading.Thread(target=write, args=(name,)) for name in (1, 2, 3)]
        for writer in writers:
            writer.start()
        expected = {1: 0, 2: 0, 3: 0}
        for position in range(3 * count):
            message = read(flow.server, length)
            assert int.from_bytes(message[1:5], "big") == expected[message[0]]
            expected[message[0]] += 1
            if position % 700 == 0:
                time.sleep(0.02)
        for writer in writers:
            writer.join()


def test_a_socket_that_processes_share(splice: SpliceLab) -> None:
    """Parent and child write in turn; the child's end does not end the stream."""
    with splice.spliced(V4) as flow:
        pid = os.fork()
        if pid == 0:
            flow.client.sendall(b"child " * 10_000)
            os._exit(0)
        assert read(flow.server, 60_000) == b"child " * 10_000
        os.waitpid(pid, 0)
        flow.client.sendall(b"parent")
        assert read(flow.server, 6) == b"parent"


def test_a_socket_that_is_handed_to_another_process(splice: SpliceLab, family: Family) -> None:
    """The reader's end goes to another process in mid-stream (SCM_RIGHTS), which reads on where the first stopped."""
    content, first = os.urandom(12 << 20), 1 << 20
    with splice.spliced(family) as flow:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            pid = os.fork()
            if pid == 0:
                flow.server.close()  # what was inherited: only what is handed over counts
                os._exit(_read_on(theirs, len(content) - first))
            flow.client.settimeout(20)
            sender = threading.Thread(target=flow.client.sendall, args=(content,))
            sender.start()
            assert read(flow.server, first) == content[:first]
            socket.send_fds(ours, [b"here"], [flow.server.fileno()])
            flow.server.close()
            ours.settimeout(20)
            digest = ours.recv(100).decode()
            sender.join()
            assert os.waitpid(pid, 0)[1] == 0
            assert digest == hashlib.sha256(content[first:]).hexdigest()
            counted = splice.splicer.counters(flow.agent.flow or 0)
            assert counted is not None and counted.sent > 100, "all of it was relayed"


def _read_on(channel: socket.socket, size: int) -> int:
    """In the other process: the exit status."""
    try:
        _, (handed,), _, _ = socket.recv_fds(channel, 10, 1)
        with socket.socket(fileno=handed) as end:
            end.settimeout(20)
            channel.sendall(read_all(end, size).encode())
    except BaseException:
        return 1
    return 0


def test_processes_that_read_one_socket_in_turn(splice: SpliceLab) -> None:
    """Parent and child share the descriptor; what one has read the other does not get."""
    with splice.spliced(V4) as flow:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            pid = os.fork()
            if pid == 0:
                for _ in range(50):
                    theirs.recv(1)
                    theirs.sendall(flow.server.recv(4))
                os._exit(0)
            ours.settimeout(5)
            for number in range(50):
                flow.client.sendall(number.to_bytes(4, "big"))
                ours.sendall(b"?")
                assert int.from_bytes(ours.recv(4), "big") == number
                flow.client.sendall(b"mine")
                assert read(flow.server, 4) == b"mine"
            assert os.waitpid(pid, 0)[1] == 0
        flow.warm_up()


def test_where_tcp_memory_is_short_bytes_are_relayed_and_no_send_fails(
    splice: SpliceLab, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel would answer ENOMEM to a redirected send; a relayed one waits."""
    monkeypatch.setattr(SpliceController, "cap", 1 << 30)
    with splice.spliced(family) as flow:
        before = splice.splicer.counters(flow.agent.flow or 0)
        monkeypatch.setattr(splice.controller, "_pressure", ALWAYS_SHORT)
        splice.controller.switch(on=True)
        transfer(flow.client, flow.server, 4 << 20)
        assert splice.controller.counters()["memory"] > 0
        after = splice.splicer.counters(flow.agent.flow or 0)
        assert before is not None and after is not None and before.sent == after.sent


def test_a_receiver_that_closes_while_its_sender_sends(splice: SpliceLab, family: Family) -> None:
    with splice.spliced(family) as flow:
        sender = Sender(flow.client, 1 << 30)
        sender.start()
        read_all(flow.server, 1 << 20)
        flow.server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
        flow.server.close()
        sender.join(10)
        assert isinstance(sender.error, ConnectionResetError | BrokenPipeError)


def test_the_node_wide_cap(lab: Lab) -> None:
    splice = SpliceLab(lab, SpliceSettings(limit=4 << 20, cap=1 << 20))
    with splice.spliced(V4) as flow:
        transferred = Sender(flow.client, 8 << 20)
        transferred.start()
        wait_until(lambda: splice.controller.counters()["cap"] > 0, "the cap is reached")
        assert splice.controller.queued() <= 1 << 20
        digest = read_all(flow.server, 8 << 20)
        transferred.join()
        assert digest == transferred.digest


def read(source: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        data = source.recv(size - len(found))
        assert data
        found += data
    return found


V4 = Family("v4", socket.AF_INET, "", "240.240.0.10", "10.9.9.9", "127.0.0.1")
