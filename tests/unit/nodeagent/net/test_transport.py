"""An application's connection on the poller: bytes, ends, resets, slow readers, and what asyncio promises."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import socket
from random import Random
from select import EPOLLIN, EPOLLRDHUP
from unittest import mock

import pytest

from nodeagent.net.sockets import orderly_close
from tests.support.polled import Bench, BufferedRecorder, Recorder, polled
from tests.support.stories import reset

MEGABYTES = 6 * 1024 * 1024


@polled
async def test_bytes_arrive_intact_in_both_directions_at_once(bench: Bench) -> None:
    random = Random(3)
    up, down = random.randbytes(MEGABYTES), random.randbytes(MEGABYTES + 1)
    protocol = BufferedRecorder(64 * 1024)
    transport, other = bench.pair(protocol)
    sending = asyncio.ensure_future(bench.loop.sock_sendall(other, up))
    at = 0
    while at < len(down):
        size = random.choice((1, 100, 4096, 65_536, 300_000))
        transport.write(down[at : at + size])
        at += size
    transport.write_eof()
    assert hashlib.sha256(await bench.read_to_end(other)).digest() == hashlib.sha256(down).digest()
    await sending
    other.close()
    await protocol.until(lambda: "eof" in protocol.told)
    assert protocol.data == up
    transport.close()
    await protocol.lost.wait()
    assert protocol.error is None


@polled
async def test_a_reader_that_stops_is_told_of_and_gets_everything_in_the_end(bench: Bench) -> None:
    protocol = Recorder()
    transport, other = bench.pair(protocol)
    transport.set_write_buffer_limits(high=100_000, low=1000)
    data = os.urandom(MEGABYTES)
    sent = 0
    while "pause" not in protocol.told:
        transport.write(data[sent : sent + 50_000])
        sent += 50_000
    assert 100_000 < transport.get_write_buffer_size() <= 150_000
    transport.write(data[sent:])
    transport.write_eof()
    assert await bench.read_to_end(other) == data
    assert protocol.told == ["made", "pause", "resume"], "each once"
    assert transport.get_write_buffer_size() == 0
    transport.abort()


@polled
async def test_nothing_is_read_while_reading_is_paused(bench: Bench) -> None:
    protocol = Recorder()
    transport, other = bench.pair(protocol)
    transport.pause_reading()
    transport.pause_reading()
    assert not transport.is_reading()
    other.send(b"later")
    await bench.turns(20)
    assert not protocol.data
    transport.resume_reading()
    transport.resume_reading()
    assert not protocol.data, "never from within the call"
    await protocol.until(lambda: protocol.data == b"later")
    transport.abort()


@polled
async def test_half_close_leaves_the_other_direction_open(bench: Bench) -> None:
    protocol = Recorder()
    transport, other = bench.pair(protocol)
    other.send(b"question")
    other.shutdown(socket.SHUT_WR)
    await protocol.until(lambda: "eof" in protocol.told)
    assert protocol.told == ["made", "data", "eof"] and protocol.data == b"question"
    assert not transport.is_reading() and not transport.is_closing()
    transport.write(b"answer")
    assert await bench.loop.sock_recv(other, 100) == b"answer"
    transport.write_eof()
    assert await bench.read_to_end(other) == b""
    assert protocol.told == ["made", "data", "eof"]
    transport.close()
    await protocol.lost.wait()
    assert protocol.error is None


@polled
async def test_our_half_close_leaves_the_other_direction_open(bench: Bench) -> None:
    protocol = Recorder()
    transport, other = bench.pair(protocol)
    transport.write(b"question")
    transport.write_eof()
    transport.write_eof()
    assert await bench.read_to_end(other) == b"question"
    await bench.loop.sock_sendall(other, b"answer")
    await protocol.until(lambda: protocol.data == b"answer")
    with pytest.raises(RuntimeError):
        transport.write(b"too late")
    transport.abort()


@polled
async def test_bytes_and_the_end_that_came_together_are_told_together(bench: Bench) -> None:
    """So that they can be passed on together."""
    protocol = Recorder()
    transport, other = bench.pair(protocol)
    transport.pause_reading()
    other.send(b"all")
    other.shutdown(socket.SHUT_WR)
    transport.resume_reading()
    transport.ready(EPOLLIN | EPOLLRDHUP)
    assert protocol.told == ["made", "data", "eof"]
    transport.abort()


@polled
async def test_a_protocol_that_wants_no_half_close_is_closed_at_the_end(bench: Bench) -> None:
    protocol = Recorder()
    protocol.keeps_open = False
    _, other = bench.pair(protocol)
    other.shutdown(socket.SHUT_WR)
    await protocol.lost.wait()
    assert protocol.told == ["made", "eof", "lost"] and protocol.error is None


@polled
async def test_a_reset_is_no_end(bench: Bench) -> None:
    protocol = Recorder()
    _, other = bench.pair(protocol)
    reset(other)
    await protocol.lost.wait()
    assert protocol.told == ["made", "lost"]
    assert isinstance(protocol.error, ConnectionResetError)


@polled
async def test_a_reset_is_noticed_while_reading_is_paused(bench: Bench) -> None:
    protocol = Recorder()
    transport, other = bench.pair(protocol)
    transport.pause_reading()
    await bench.turns(3)
    reset(other)
    await protocol.lost.wait()
    assert protocol.told == ["made", "lost"]
    assert protocol.error is not None and protocol.error.errno == errno.ECONNRESET


@polled
async def test_a_reset_after_the_end_is_noticed(bench: Bench) -> None:
    protocol = Recorder()
    transport, other = bench.pair(protocol)
    other.shutdown(socket.SHUT_WR)
    await protocol.until(lambda: "eof" in protocol.told)
    transport.write(b"nobody takes this")
    reset(other)
    await protocol.lost.wait()
    assert protocol.told == ["made", "eof", "lost"] and protocol.error is not None


@polled
async def test_a_write_to_a_connection_that_was_reset_loses_it(bench: Bench) -> None:
    """The kernel tells the error once: a read after it would look like an end."""
    protocol = Recorder()
    transport, other = bench.pair(protocol)
    reset(other)
    transport.write(b"x")
    transport.write(b"y")
    await protocol.lost.wait()
    assert protocol.told == ["made", "lost"]
    assert isinstance(protocol.error, OSError)


@polled
async def test_a_reset_while_bytes_wait_drops_them(bench: Bench) -> None:
    protocol = Recorder()
    transport, other = bench.pair(protocol)
    transport.write(bytes(MEGABYTES))
    assert transport.get_write_buffer_size()
    reset(other)
    await protocol.lost.wait()
    assert protocol.told == ["made", "pause", "lost"]
    assert protocol.error is not None and not transport.get_write_buffer_size()


@polled
async def test_a_connection_that_both_have_ended_is_not_told_again_and_again(bench: Bench) -> None:
    protocol = Recorder()
    transport, other = bench.pair(protocol)
    transport.pause_reading()
    other.send(b"last")
    other.shutdown(socket.SHUT_WR)
    transport.write_eof()
    assert await bench.read_to_end(other) == b""
    with mock.patch.object(type(transport), "ready", autospec=True, side_effect=type(transport).ready) as ready:
        await bench.turns(50)
    assert ready.call_count <= 2, "the poller turns for nothing"
    transport.resume_reading()
    await protocol.until(lambda: "eof" in protocol.told)
    assert protocol.data == b"last"
    transport.close()


@polled
async def test_an_end_is_not_told_again_and_again(bench: Bench) -> None:
    protocol = Recorder()
    transport, other = bench.pair(protocol)
    other.shutdown(socket.SHUT_WR)
    await protocol.until(lambda: "eof" in protocol.told)
    with mock.patch.object(type(transport), "ready", autospec=True, side_effect=type(transport).ready) as ready:
        await bench.turns(50)
    assert ready.call_count == 0
    transport.resume_reading()
    await bench.turns(3)
    assert protocol.told == ["made", "eof"]
    transport.abort()


@polled
async def test_close_sends_what_waits_and_then_ends_in_order(bench: Bench) -> None:
    protocol = Recorder()
    transport, other = bench.pair(protocol)
    data = os.urandom(MEGABYTES)
    transport.write(data)
    orderly_close(transport)
    transport.close()
    transport.close()
    transport.write(b"ignored")
    assert transport.is_closing()
    assert await bench.read_to_end(other) == data
    await protocol.lost.wait()
    assert protocol.told[-1] == "lost" and protocol.error is None


@polled
async def test_close_sends_the_end_after_what_waits(bench: Bench) -> None:
    protocol = Recorder()
    transport, other = bench.pair(protocol)
    data = os.urandom(MEGABYTES)
    transport.write(data)
    transport.write_eof()
    assert await bench.read_to_end(other) == data
    transport.close()
    await protocol.lost.wait()
    assert protocol.error is None


@polled
async def test_abort_resets(bench: Bench) -> None:
    protocol = Recorder()
    transport, other = bench.pair(protocol)
    transport.write(bytes(MEGABYTES))
    transport.abort()
    transport.abort()
    assert "lost" not in protocol.told, "never from within a call"
    await protocol.lost.wait()
    assert protocol.told.count("lost") == 1 and protocol.error is None
    with pytest.raises(ConnectionResetError):
        await bench.read_to_end(other)


@polled
async def test_a_protocol_may_abort_while_it_is_told(bench: Bench) -> None:
    protocol = Recorder()
    transport, other = bench.pair(protocol)
    protocol.on_data = transport.abort
    other.send(b"x")
    other.shutdown(socket.SHUT_WR)
    await protocol.lost.wait()
    assert protocol.told == ["made", "data", "lost"]


@polled
async def test_a_protocol_may_pause_while_it_is_told(bench: Bench) -> None:
    """Also where the end has come already."""
    protocol = BufferedRecorder(4)
    transport, other = bench.pair(protocol)
    protocol.on_data = transport.pause_reading
    other.send(b"12345678")
    other.shutdown(socket.SHUT_WR)
    await protocol.until(lambda: protocol.data)
    await bench.turns(5)
    assert protocol.data == b"1234" and "eof" not in protocol.told
    protocol.on_data = lambda: None
    transport.resume_reading()
    await protocol.until(lambda: "eof" in protocol.told)
    assert protocol.data == b"12345678"
    transport.abort()


@polled
async def test_a_buffer_that_was_lent_is_not_kept(bench: Bench) -> None:
    protocol = Recorder()
    transport, other = bench.pair(protocol)
    sent = bytearray()
    lent = bytearray(100_000)
    while not transport.get_write_buffer_size():
        lent[:] = os.urandom(len(lent))
        sent += lent
        transport.write(memoryview(lent))
    for _ in range(3):
        lent[:] = os.urandom(len(lent))
        sent += lent
        transport.write(memoryview(lent))
    lent[:] = bytes(len(lent))
    transport.write_eof()
    assert await bench.read_to_end(other) == sent
    transport.abort()


@polled
async def test_who_wants_to_know_when_nothing_waits_sets_the_limit_to_nothing(bench: Bench) -> None:
    protocol = Recorder()
    transport, other = bench.pair(protocol)
    transport.set_write_buffer_limits(high=2 * MEGABYTES)
    transport.write(bytes(MEGABYTES))
    assert "pause" not in protocol.told
    transport.set_write_buffer_limits(high=0)
    assert transport.get_write_buffer_limits() == (0, 0)
    assert protocol.told[-1] == "pause"
    transport.write_eof()
    assert len(await bench.read_to_end(other)) == MEGABYTES
    await protocol.until(lambda: protocol.told[-1] == "resume")
    assert not transport.get_write_buffer_size()
    transport.abort()


@polled
async def test_another_protocol_takes_what_comes_from_then_on(bench: Bench) -> None:
    first, second = BufferedRecorder(), Recorder()
    transport, other = bench.pair(first)
    other.send(b"one")
    await first.until(lambda: first.data == b"one")
    transport.set_protocol(second)
    assert transport.get_protocol() is second
    other.send(b"two")
    await second.until(lambda: second.data == b"two")
    assert first.data == b"one"
    reset(other)
    await second.lost.wait()
    assert "lost" not in first.told


@polled
async def test_what_is_asked_of_a_connection(bench: Bench) -> None:
    protocol = Recorder()
    transport, other = bench.pair(protocol)
    assert transport.get_extra_info("peername")[1] == other.getsockname()[1]
    assert transport.get_extra_info("sockname")[1] == other.getpeername()[1]
    assert transport.get_extra_info("unknown", 7) == 7
    assert transport.can_write_eof()
    transport.abort()
    await protocol.lost.wait()
    assert transport.get_extra_info("sockname") is None


@polled
async def test_a_protocol_that_fails_at_the_beginning_loses_its_connection(bench: Bench) -> None:
    protocol = Recorder()
    with (
        mock.patch.object(protocol, "connection_made", side_effect=ZeroDivisionError),
        pytest.raises(ZeroDivisionError),
    ):
        bench.pair(protocol)
    await protocol.lost.wait()
    with pytest.raises(ConnectionResetError):
        await bench.read_to_end(bench.sockets[-1])


@pytest.mark.interpreted
@polled
async def test_a_connection_that_cannot_be_watched_is_lost(bench: Bench) -> None:
    """epoll has a limit for each user (fs.epoll.max_user_watches)."""
    protocol = Recorder()
    with mock.patch.object(bench.poller, "add", side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))):
        _, other = bench.pair(protocol)
    await protocol.lost.wait()
    assert protocol.told == ["made", "lost"]
    assert protocol.error is not None and protocol.error.errno == errno.ENOSPC
    with pytest.raises(ConnectionResetError):
        await bench.read_to_end(other)
