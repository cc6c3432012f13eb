"""Ways of reading and writing other than plain recv() and send(): served by the splice, or kept out of it in time."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import select
import signal
import socket
import termios
import threading
import time
from pathlib import Path

import pytest

from nodeagent.splice.abi import Flag
from nodeagent.splice.controller import SpliceSettings
from nodeagent.splice.scratch import ScratchFlow
from nodeagent.splice.selftest import Item, Result, SelfTest
from nodeagent.splice.splicer import SpliceState
from tests.kernel.conftest import FAMILIES, Family, Lab
from tests.kernel.splicing import SpliceLab, transfer, wait_until
from tests.support.degraded import can_splice
from tests.support.pace import patient

pytestmark = pytest.mark.splice

V4 = FAMILIES[0]
TCP_ULP = 31
SO_ZEROCOPY = 60
MSG_ZEROCOPY = 0x4000000
IPPROTO_MPTCP = 262


@pytest.fixture
def splice(lab: Lab) -> SpliceLab | None:
    return SpliceLab(lab) if can_splice() else None


def exchange(flow: ScratchFlow, times: int = 6) -> None:
    """Small messages both ways, whatever path they take."""
    for _ in range(times):
        flow.client.sendall(b"a")
        assert flow.server.recv(10) == b"a"
        flow.server.sendall(b"b")
        assert flow.client.recv(10) == b"b"


def redirected(splice: SpliceLab, flow: ScratchFlow) -> int:
    counted = splice.splicer.counters(flow.agent.flow or 0)
    assert counted is not None
    return counted.sent + counted.received


def reason(splice: SpliceLab, flow: ScratchFlow) -> Flag:
    return splice.splicer.reason(flow.agent.flow or 0)


def splice_out(source: socket.socket, size: int) -> bytes:
    """Read with splice(2) through a pipe."""
    reader, writer = os.pipe()
    try:
        found = b""
        while len(found) < size:
            if not select.select([source], [], [], 2)[0]:
                raise TimeoutError
            moved = os.splice(source.fileno(), writer, size - len(found), flags=2)
            if not moved:
                break
            found += os.read(reader, moved)
        return found
    finally:
        os.close(reader)
        os.close(writer)


def test_a_reader_that_only_splices_is_never_spliced(splice: SpliceLab, family: Family) -> None:
    with splice.flow(family) as flow:
        for _ in range(8):
            flow.client.sendall(b"request")
            assert splice_out(flow.server, 7) == b"request"
            flow.server.sendall(b"answer")
            assert flow.client.recv(10) == b"answer"
        ways = splice.splicer.look(flow.agent.flow or 0)
        assert ways is not None
        assert ways[0]["redirected"] == 0


def test_splicing_later_with_nothing_queued_goes_on_over_the_relay(splice: SpliceLab, family: Family) -> None:
    """Headers with recv(), the body with splice(2): what HAProxy does."""
    with splice.spliced(family) as flow:
        poller = threading.Timer(0.2, flow.client.sendall, [b"body" * 1000])
        reader, writer = os.pipe()
        with pytest.raises(BlockingIOError):
            os.splice(flow.server.fileno(), writer, 100, flags=2)  # nothing there yet; from now on it is known
        os.close(reader)
        os.close(writer)
        poller.start()
        assert splice_out(flow.server, 4000) == b"body" * 1000
        assert splice.splicer.broken() == []


def test_a_splice_that_waits_gets_what_comes(splice: SpliceLab, family: Family) -> None:
    """splice(2) on a blocking descriptor, begun while nothing is there."""
    with splice.spliced(family) as flow:
        reader, writer = os.pipe()
        flow.server.setblocking(True)
        threading.Timer(0.2, flow.client.sendall, [b"late"]).start()
        assert os.splice(flow.server.fileno(), writer, 100) == 4
        assert os.read(reader, 10) == b"late"
        os.close(reader)
        os.close(writer)
        assert splice.splicer.broken() == []


def test_splicing_what_was_redirected_is_reported_at_once(splice: SpliceLab, family: Family) -> None:
    with splice.spliced(family) as flow:
        flow.client.sendall(b"headers and body")
        assert flow.server.recv(8) == b"headers "
        reader, writer = os.pipe()
        with pytest.raises(BlockingIOError):
            os.splice(flow.server.fileno(), writer, 100, flags=2)
        os.close(reader)
        os.close(writer)
        assert splice.splicer.broken({1}) == []  # left to whom it belongs
        assert splice.splicer.broken() == [(flow.agent.flow, Flag.OUT_SPLICE)]
        assert splice.splicer.broken() == []
        flow.agent.cut()  # what the worker does
        with pytest.raises(ConnectionResetError):
            while flow.server.recv(100):
                pass


def test_sendfile_writes(splice: SpliceLab, family: Family, tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    path = tmp_path / "file"
    path.write_bytes(content)
    with splice.spliced(family) as flow, path.open("rb") as file:
        sender = threading.Thread(target=flow.client.sendfile, args=(file,))
        sender.start()
        found = b""
        while len(found) < len(content):
            found += flow.server.recv(1 << 20)
        sender.join()
        assert found == content
        assert splice.splicer.reason(flow.agent.flow or 0) == Flag(0)
        flow.warm_up()  # counted exactly: it can be spliced still


def test_peeking_consumes_nothing(splice: SpliceLab, family: Family) -> None:
    with splice.spliced(family) as flow:
        flow.client.sendall(b"peek")
        for _ in range(3):
            assert flow.server.recv(10, socket.MSG_PEEK) == b"peek"
        ways = splice.splicer.look(flow.agent.flow or 0)
        assert ways is not None
        assert ways[0]["tail"] - ways[0]["consumed"] == 4
        assert flow.server.recv(10) == b"peek"
        flow.warm_up()


def test_edge_triggered_readiness(splice: SpliceLab, family: Family) -> None:
    with splice.spliced(family) as flow, select.epoll() as epoll:
        epoll.register(flow.server.fileno(), select.EPOLLIN | select.EPOLLET)
        for number in range(50):
            flow.client.sendall(bytes([number]) * 10)
            assert epoll.poll(2), f"no edge for message {number}"
            flow.server.setblocking(False)
            assert flow.server.recv(100) == bytes([number]) * 10
            with pytest.raises(BlockingIOError):
                flow.server.recv(100)
            flow.server.settimeout(patient(2))
        if flow.agent.relayed[0] > 10:
            pytest.fail("it was relayed")


def test_a_reader_that_waits_for_all_is_out(splice: SpliceLab, family: Family) -> None:
    with splice.flow(family) as flow:
        for _ in range(6):
            flow.client.sendall(b"abcd")
            flow.server.setblocking(True)
            assert flow.server.recv(4, socket.MSG_WAITALL) == b"abcd"
            flow.server.sendall(b"x")
            assert flow.client.recv(10) == b"x"
        assert Flag.OUT_WAITALL in reason(splice, flow)
        assert redirected(splice, flow) == 0


def test_waiting_for_all_of_what_was_redirected_is_reported(splice: SpliceLab) -> None:
    with splice.spliced(V4) as flow:
        flow.client.sendall(b"ab")
        flow.server.recv(100, socket.MSG_WAITALL)
        assert splice.splicer.broken() == [(flow.agent.flow, Flag.OUT_WAITALL)]


def test_a_reader_that_asks_how_much_there_is(splice: SpliceLab, family: Family) -> None:
    """On a kernel whose FIONREAD leaves redirected bytes out."""
    splice.controller.obey(SelfTest((Item("fionread", Result.FAIL, "0, not 4"),), 1.0))
    with splice.flow(family) as flow:
        for _ in range(6):
            flow.client.sendall(b"abcd")
            waiting = array.array("i", [0])
            wait_until(lambda: bool(select.select([flow.server], [], [], 0)[0]), "readable")
            fcntl.ioctl(flow.server, termios.FIONREAD, waiting)
            assert waiting[0] == 4
            assert flow.server.recv(10) == b"abcd"
            flow.server.sendall(b"x")
            assert flow.client.recv(10) == b"x"
        assert Flag.OUT_FIONREAD in reason(splice, flow)


def test_a_low_water_mark_keeps_out(splice: SpliceLab, family: Family) -> None:
    with splice.flow(family) as flow:
        flow.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 4)
        flow.client.sendall(b"abcd")
        assert flow.server.recv(10) == b"abcd"
        assert Flag.OUT_LOWAT in reason(splice, flow)
    with splice.flow(family) as flow:
        flow.warm_up()
        flow.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 4)
        before = redirected(splice, flow)
        flow.client.sendall(b"abcd")
        assert flow.server.recv(10) == b"abcd"
        assert redirected(splice, flow) == before


def test_a_reader_that_blocks_is_out(splice: SpliceLab, family: Family) -> None:
    """Sockets in a socket map answer EAGAIN to a blocked recv() at a signal or a reset."""
    with splice.flow(family) as flow:
        flow.server.setblocking(True)
        exchange(flow)
        assert flow.agent.state is SpliceState.OUT
        assert reason(splice, flow) == Flag.OUT_BLOCKING
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.siginterrupt(signal.SIGALRM, False)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        threading.Timer(0.3, flow.client.sendall, [b"late"]).start()
        assert flow.server.recv(10) == b"late"


def test_readers_that_block_can_be_allowed(lab: Lab, family: Family) -> None:
    splice = SpliceLab(lab, SpliceSettings(allow_blocking=True))
    with splice.flow(family) as flow:
        flow.server.setblocking(True)
        flow.warm_up()
        transfer(flow.client, flow.server, 8 << 20)


def test_no_tls_socket_gets_in(splice: SpliceLab, family: Family) -> None:
    """TCP_ULP before: out for good. After: answered as by a kernel without TLS."""
    with splice.flow(family) as flow:
        with pytest.raises(OSError):  # this machine's kernel has no TLS; the wish is what counts
            flow.client.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b"tls")
        exchange(flow)
        assert Flag.OUT_ULP in reason(splice, flow)
        assert redirected(splice, flow) == 0
    with splice.spliced(family) as flow:
        with pytest.raises(OSError) as caught:
            flow.server.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b"tls")
        assert caught.value.errno == errno.ENOENT
        assert splice.controller.counters()["denied_ulp"] == 1
        before = redirected(splice, flow)
        exchange(flow)
        assert redirected(splice, flow) == before


def test_zero_copy_writers(splice: SpliceLab, family: Family) -> None:
    """Their completions would never come: not spliced; refused, as on an old kernel, where it is spliced already."""
    with splice.flow(family) as flow:
        flow.client.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
        exchange(flow)
        assert Flag.OUT_ZEROCOPY in reason(splice, flow)
        flow.client.send(b"z" * 5000, MSG_ZEROCOPY)
        got = b""
        while len(got) < 5000:
            got += flow.server.recv(5000)
        poll = select.poll()
        poll.register(flow.client, 0)  # errors are always told
        assert poll.poll(2000)
        flow.client.recvmsg(100, 1000, socket.MSG_ERRQUEUE)
    with splice.spliced(family) as flow:
        with pytest.raises(OSError) as caught:
            flow.client.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
        assert caught.value.errno == errno.EOPNOTSUPP
        exchange(flow)


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
def test_a_dual_stack_server(splice: SpliceLab, ip: str) -> None:
    listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with listener, splice.scratch.flow(family, ip, listening=listener) as flow:
        flow.warm_up()
        transfer(flow.client, flow.server, 4 << 20)


@pytest.mark.parametrize("where", ["client", "server"])
def test_multipath_sockets_work(splice: SpliceLab, where: str) -> None:
    """A client's are relayed; a server's accept plain TCP (the agent's), which is spliced like any other."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP if where == "server" else 0)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    protocol = IPPROTO_MPTCP if where == "client" else 0
    with listener, splice.scratch.flow(listening=listener, protocol=protocol) as flow:
        exchange(flow)
        if where == "client":
            assert flow.agent.flow is None or redirected(splice, flow) == 0
        transfer(flow.client, flow.server, 2 << 20)


def test_sending_after_the_end_fails(splice: SpliceLab, family: Family) -> None:
    """The kernel would redirect after shutdown()."""
    with splice.spliced(family) as flow:
        flow.client.shutdown(socket.SHUT_WR)
        with pytest.raises(BrokenPipeError):
            flow.client.send(b"late")
        assert flow.server.recv(10) == b""


def test_an_agent_that_is_killed_resets_both(splice: SpliceLab, family: Family) -> None:
    with splice.spliced(family) as flow:
        pid = os.fork()
        if pid == 0:  # the agent: nobody else holds its sockets
            flow.client.close()
            flow.server.close()
            signal.pause()
        for end in flow.agent.ends:
            os.close(end.detach())
        flow.client.sendall(b"spliced")
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert flow.server.recv(10) == b"spliced"
        for end in (flow.client, flow.server):
            began = time.monotonic()
            with pytest.raises(ConnectionResetError):
                end.recv(10)
            assert time.monotonic() - began < patient(1)


def test_a_flow_that_nobody_authorized_is_not_spliced(splice: SpliceLab) -> None:
    with splice.flow(V4) as flow:
        flow.agent.flow, number = None, flow.agent.flow  # never asks
        splice.splicer.disable(number or 0)
        exchange(flow)
        counted = splice.splicer.counters(number or 0)
        assert counted is not None
        assert (counted.sent, counted.received) == (0, 0)


def test_what_a_forgotten_flow_left_queued_counts_until_it_is_gone(splice: SpliceLab) -> None:
    with splice.spliced(V4) as flow:
        number = flow.agent.flow or 0
        flow.client.sendall(bytes(100_000))
        splice.splicer.forget(number)
        splice.controller.sweep()
        assert splice.controller.queued() >= 100_000
        flow.server.close()
        assert splice.controller.sweep() == 1
        assert splice.controller.queued() == 0
        assert splice.controller.status().flows == 0
