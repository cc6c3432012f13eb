"""What the running kernel has to do right before any flow is spliced on it. Each trial raises where it does not; each
takes a fraction of a tenth of a second.
"""

from __future__ import annotations

import array
import fcntl
import os
import select
import socket
import struct
import tempfile
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from nodeagent.splice.abi import Flag
from nodeagent.splice.scratch import Scratch, ScratchFlow

BULK: Final = 1024 * 1024
PIECE: Final = 64 * 1024
IPPROTO_MPTCP: Final = 262
WARM: Final = 16
"""Octets that warming up may have left in the counts."""
TCP_BUFFERS: Final = 32 * 1024 * 1024
"""More than the ordinary TCP buffers of a flow ever hold."""

SO_MEMINFO: Final = 55
MEMINFO: Final = "9I"
"""``SK_MEMINFO_VARS`` of linux/sock_diag.h."""
BACKLOG_MORE: Final = 64 * 1024
"""What the kernel lets wait beside the buffers of a socket."""


class WrongError(Exception):
    """The kernel did something else than it should; the message says what."""


class AbsentError(Exception):
    """The kernel or the machine does not have what the trial is about; nothing can go wrong with it."""


def _expect(got: object, wanted: object, what: str) -> None:
    if got != wanted:
        raise WrongError(f"{what}: {got!r}, not {wanted!r}"[:200])


def _read(source: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        data = source.recv(size - len(found))
        if not data:
            raise WrongError(f"the stream ended after {len(found)} of {size} octets")
        found += data
    return bytes(found)


def _bulk(flow: ScratchFlow) -> None:
    """Random octets both ways at once."""
    flow.warm_up()
    relayed = sum(flow.agent.relayed)
    ends = (flow.client, flow.server)
    content = [os.urandom(BULK) for _ in ends]
    threads = [threading.Thread(target=end.sendall, args=(data,)) for end, data in zip(ends, content, strict=True)]
    for thread in threads:
        thread.start()
    for end, data in zip(reversed(ends), content, strict=True):
        if _read(end, BULK) != data:
            raise WrongError("octets were changed, lost, doubled or out of order")
    for thread in threads:
        thread.join()
    if sum(flow.agent.relayed) - relayed > BULK:
        raise WrongError("most of it was relayed")


def bulk(scratch: Scratch) -> None:
    """IPv4."""
    with scratch.flow() as flow:
        _bulk(flow)


def bulk_v6(scratch: Scratch) -> None:
    """IPv6."""
    with _v6(), scratch.flow(socket.AF_INET6, "::1") as flow:
        _bulk(flow)


def dual_stack(scratch: Scratch) -> None:
    """Sockets of AF_INET6 that speak IPv4."""
    with (
        _v6(),
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener,
        scratch.flow(socket.AF_INET6, "127.0.0.1", listener) as flow,
    ):
        _bulk(flow)


def half_close(scratch: Scratch) -> None:
    """One direction ends, the other goes on."""
    with scratch.flow() as flow:
        flow.warm_up()
        flow.client.shutdown(socket.SHUT_WR)
        _expect(flow.server.recv(10), b"", "the end of one direction")
        flow.server.sendall(b"more")
        _expect(flow.client.recv(10), b"more", "the other direction")


def end_after_data(scratch: Scratch) -> None:
    """The end comes after what was queued before it."""
    with scratch.flow() as flow:
        flow.warm_up()
        flow.client.sendall(b"x" * PIECE)
        flow.client.close()
        flow.server.shutdown(socket.SHUT_WR)
        flow.agent.join(2)
        _expect(len(_read(flow.server, PIECE)), PIECE, "octets before the end")
        _expect(flow.server.recv(10), b"", "the end")


def reset(scratch: Scratch) -> None:
    """The agent's resets reach both applications."""
    with scratch.flow() as flow:
        flow.warm_up()
        flow.agent.cut()
        for end in (flow.client, flow.server):
            try:
                got = end.recv(10)
            except ConnectionResetError:
                continue
            raise WrongError(f"a reset was answered with {got!r}")


def splice_reader(scratch: Scratch) -> None:
    """A reader that turns to splice(2): what comes then is relayed; octets that wait already are reported."""
    with scratch.flow() as flow, _pipe() as (reader, writer):
        flow.warm_up()
        number = flow.agent.flow or 0
        with suppress(BlockingIOError):
            os.splice(flow.server.fileno(), writer, 10, flags=os.SPLICE_F_NONBLOCK)
        flow.client.sendall(b"relayed")
        if not select.select([flow.server], [], [], 1)[0]:
            raise WrongError("octets did not arrive")
        _expect(os.splice(flow.server.fileno(), writer, 10, flags=os.SPLICE_F_NONBLOCK), 7, "octets spliced")
        _expect(os.read(reader, 10), b"relayed", "octets")
        _expect(scratch.splicer.broken({number}), [], "flows to be reset")
    with scratch.flow() as flow, _pipe() as (_, writer):
        flow.warm_up()
        number = flow.agent.flow or 0
        flow.client.sendall(b"redirected")
        with suppress(BlockingIOError):
            os.splice(flow.server.fileno(), writer, 10, flags=os.SPLICE_F_NONBLOCK)
        _expect(scratch.splicer.broken({number}), [(number, Flag.OUT_SPLICE)], "flows to be reset")


def splice_only(scratch: Scratch) -> None:
    """A reader that never uses anything but splice(2) gets everything, over the relay."""
    with scratch.flow() as flow, _pipe() as (reader, writer):
        for _ in range(3):
            flow.client.sendall(b"request")
            if not select.select([flow.server], [], [], 1)[0]:
                raise WrongError("octets did not arrive")
            _expect(os.splice(flow.server.fileno(), writer, 7), 7, "octets spliced")
            _expect(os.read(reader, 10), b"request", "octets")
            flow.server.sendall(b"answer")
            _expect(flow.client.recv(10), b"answer", "the answer")


def sendfile(scratch: Scratch) -> None:
    """A writer that uses sendfile(2)."""
    content = os.urandom(BULK)
    with scratch.flow() as flow, tempfile.TemporaryFile() as file:
        file.write(content)
        flow.warm_up()
        sender = threading.Thread(target=flow.client.sendfile, args=(file, 0))
        sender.start()
        _expect(_read(flow.server, BULK) == content, True, "octets as in the file")
        sender.join()
        flow.warm_up()


def multipath(scratch: Scratch) -> None:
    """MPTCP sockets work at either end, spliced or not."""
    for protocol, listening in ((IPPROTO_MPTCP, 0), (0, IPPROTO_MPTCP)):
        try:
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, listening)
            socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol).close()
        except OSError as error:
            raise AbsentError("this kernel has no MPTCP") from error
        with listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            with scratch.flow(listening=listener, protocol=protocol) as flow:
                for _ in range(4):
                    flow.client.sendall(b"request")
                    _expect(_read(flow.server, 7), b"request", "the request")
                    flow.server.sendall(b"answer")
                    _expect(_read(flow.client, 6), b"answer", "the answer")


def peek(scratch: Scratch) -> None:
    """MSG_PEEK leaves octets where they are."""
    with scratch.flow() as flow:
        flow.warm_up()
        flow.client.sendall(b"peek")
        for flags in (socket.MSG_PEEK, socket.MSG_PEEK, 0):
            _expect(flow.server.recv(10, flags), b"peek", "octets")
        flow.warm_up()


def edge_triggered(scratch: Scratch) -> None:
    """Each message is an edge for epoll."""
    with scratch.flow() as flow, select.epoll() as epoll:
        flow.warm_up()
        epoll.register(flow.server.fileno(), select.EPOLLIN | select.EPOLLET)
        for number in range(16):
            flow.client.sendall(bytes([number]))
            if not epoll.poll(1):
                raise WrongError(f"no edge for message {number}")
            _expect(flow.server.recv(10), bytes([number]), "the message")


def low_water(scratch: Scratch) -> None:
    """SO_RCVLOWAT takes a flow out."""
    with scratch.flow() as flow:
        flow.warm_up()
        flow.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 4)
        _expect(Flag.OUT_LOWAT in scratch.splicer.reason(flow.agent.flow or 0), True, "SO_RCVLOWAT noticed")
        flow.client.sendall(b"four")
        _expect(_read(flow.server, 4), b"four", "octets")


def fionread(scratch: Scratch) -> None:
    """FIONREAD counts redirected octets. Where it does not, flows whose readers ask are kept out."""
    with scratch.flow() as flow:
        flow.warm_up()
        flow.client.sendall(b"four")
        waiting = array.array("i", [0])
        fcntl.ioctl(flow.server, termios.FIONREAD, waiting)
        scratch.splicer.broken({flow.agent.flow or 0})
        _expect(waiting[0], 4, "octets to read")


def stopped_reader(scratch: Scratch, limit: int) -> None:
    """What waits for a reader that stopped is bounded and leaves room for a reset, and the sender is held."""
    with scratch.flow() as flow:
        flow.warm_up()
        flow.client.setblocking(False)
        sent, piece = 0, bytes(4 * PIECE)
        with suppress(BlockingIOError):
            while sent <= limit + TCP_BUFFERS:
                sent += flow.client.send(piece)
        ways = scratch.splicer.look(flow.agent.flow or 0)
        if sent > limit + TCP_BUFFERS or ways is None or ways[0]["redirected"] > limit + WARM:
            raise WrongError(f"the kernel took {sent} octets, {ways and ways[0]['redirected']} of them redirected")
        _expect_room_for_reset(flow.server)
        got = 0
        while got < sent:
            got += len(flow.server.recv(4 * PIECE))


def _expect_room_for_reset(reader: socket.socket) -> None:
    """A reset that came while somebody reads would not be dropped: tcp_add_backlog in net/ipv4/tcp_ipv4.c."""
    received, receive, _, send, _, _, _, backlog, _ = struct.unpack(
        MEMINFO, reader.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, struct.calcsize(MEMINFO))
    )
    bound = 2 * receive + send // 2 + BACKLOG_MORE
    if received + backlog > bound:
        raise WrongError(f"{received + backlog} octets wait in a socket that takes a reset while up to {bound} do")


def leg_bulk(scratch: Scratch) -> None:
    """Random octets both ways at once on a leg, accepted and dialled."""
    for dialled in (False, True):
        with scratch.leg(dialled=dialled) as leg:
            leg.warm_up()
            ends = (leg.app, leg.agent)
            content = [os.urandom(4 * PIECE) for _ in ends]
            threads = [
                threading.Thread(target=end.sendall, args=(data,)) for end, data in zip(ends, content, strict=True)
            ]
            for thread in threads:
                thread.start()
            for end, data in zip(reversed(ends), content, strict=True):
                if _read(end, len(data)) != data:
                    raise WrongError("octets were changed, lost, doubled or out of order")
            for thread in threads:
                thread.join()


def leg_ends(scratch: Scratch) -> None:
    """Its ends come right behind redirected octets, and after them."""
    for dialled in (False, True):
        with scratch.leg(dialled=dialled) as leg:
            leg.warm_up()
            for sender, receiver in ((leg.app, leg.agent), (leg.agent, leg.app)):
                sender.sendall(b"x" * PIECE)
                sender.shutdown(socket.SHUT_WR)
                _expect(len(_read(receiver, PIECE)), PIECE, "octets before the end")
                _expect(receiver.recv(10), b"", "the end")


def urgent(scratch: Scratch) -> None:
    """An urgent byte takes TCP, and so does what follows: it never becomes one of the stream."""
    with scratch.flow() as flow:
        flow.warm_up()
        flow.client.sendall(b"before")
        flow.client.send(b"!", socket.MSG_OOB)
        flow.client.sendall(b"after")
        _expect(_read(flow.server, 11), b"beforeafter", "the stream around an urgent byte")
        out = scratch.splicer.reason(flow.agent.flow or 0)
        _expect(bool(out & Flag.OUT_URGENT), True, "an urgent byte is seen before it is sent")


def leg_reset(scratch: Scratch) -> None:
    """The agent's reset reaches the application."""
    with scratch.leg() as leg:
        leg.warm_up()
        leg.agent.close()
        try:
            got = leg.app.recv(10)
        except ConnectionResetError:
            return
        raise WrongError(f"a reset was answered with {got!r}")


def leg_leaves(scratch: Scratch) -> None:
    """A leg of which more is sent than is read goes back to TCP in mid-stream, and loses nothing."""
    content = os.urandom(4 * BULK)
    with scratch.leg() as leg:
        leg.warm_up()
        number = leg.number or 0
        sender = threading.Thread(target=leg.app.sendall, args=(content,))
        sender.start()
        sender.join(0.02)  # enough for the queue's limit, as a rule; who is slower fills it while we read
        found = bytearray()
        while len(found) < len(content):
            found += leg.agent.recv(PIECE)
        sender.join()
        _expect(bytes(found) == content, True, "octets as they were sent")
        if Flag.OUT_BULK in scratch.splicer.standing(number)[1]:
            _expect(scratch.splicer.leave(number), True, "the sockets left")
        leg.app.sendall(b"request")
        _expect(_read(leg.agent, 7), b"request", "the request")
        leg.agent.sendall(b"answer")
        _expect(_read(leg.app, 6), b"answer", "the answer")


@contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


@contextmanager
def _v6() -> Iterator[None]:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        raise AbsentError("this machine has no IPv6 on loopback") from error
    yield


TRIALS: Final[dict[str, Callable[[Scratch], None]]] = {
    "bulk": bulk,
    "bulk-v6": bulk_v6,
    "dual-stack": dual_stack,
    "half-close": half_close,
    "end-after-data": end_after_data,
    "reset": reset,
    "splice-reader": splice_reader,
    "splice-only-reader": splice_only,
    "sendfile": sendfile,
    "multipath": multipath,
    "peek": peek,
    "edge-triggered": edge_triggered,
    "low-water": low_water,
    "fionread": fionread,
    "urgent": urgent,
    "leg-bulk": leg_bulk,
    "leg-ends": leg_ends,
    "leg-reset": leg_reset,
    "leg-leaves": leg_leaves,
}
"""By name. ``stopped-reader`` is apart: it has to know the limit."""
