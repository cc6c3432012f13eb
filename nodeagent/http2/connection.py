"""One HBONE connection, either role: HTTP/2 of which only CONNECT streams exist. Sans-io.

Source: RFC 9113; RFC 9110 section 9.3.6 (CONNECT); the limits follow istio/ztunnel. Bytes in through ``receive``; bytes
out: ``Listener.output_ready`` is called once when there is something, then ``take_output`` gives all of it, so that a
turn of the loop costs one write.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Protocol

import hpack

from nodeagent.http2 import frames
from nodeagent.http2 import headers as plain
from nodeagent.http2.control import ControlFrames
from nodeagent.http2.errors import ErrorCode, LocalError, PeerError
from nodeagent.http2.frames import Chunk, FrameReader
from nodeagent.http2.limits import (
    CLIENT_STREAMS,
    DECODER_TABLE,
    ENCODER_TABLE,
    LAST_STREAM_ID,
    MAX_CONTROL_WAITING,
    MAX_FRAME_RECEIVED,
    MAX_HEADER_LIST,
    MAX_OUTPUT,
    SERVER_STREAMS,
)
from nodeagent.http2.stream import Headers, Stream
from nodeagent.http2.windows import CONNECTION_WINDOW, FIRST_STREAM_WINDOW, WindowBudget


class Role(Enum):
    """Which end of the tunnel this is. The client opens streams, the server answers them."""

    CLIENT = "client"
    SERVER = "server"


class Listener(Protocol):
    """What a connection tells its owner."""

    def output_ready(self) -> None:
        """``take_output`` has something; called once until it is taken, which must not happen within this call."""

    def stream_opened(self, stream: Stream, headers: Headers, *, ended: bool) -> None:
        """Server: a peer opened a stream; set ``stream.receiver`` now and answer with ``respond``."""

    def settled(self) -> None:
        """The peer's first SETTINGS arrived: it speaks the protocol."""

    def draining(self, code: int, text: str) -> None:
        """The peer sent GOAWAY: open no more streams; live ones go on."""

    def pong(self) -> None:
        """The peer answered our ping."""

    def stream_closed(self, stream: Stream) -> None:
        """The stream is gone (however it ended)."""


class TunnelConnection:
    """The state of one connection. Not thread safe; no clock: the owner pings and times out."""

    def __init__(self, role: Role, listener: Listener, budget: WindowBudget | None = None) -> None:
        self.role = role
        self.listener = listener
        self.budget = budget if budget is not None else WindowBudget()
        self.streams: dict[int, Stream] = {}
        self.send_window = 65_535
        self.max_send_frame = frames.DEFAULT_MAX_FRAME
        self.peer_first_window = 65_535
        self.peer_streams = CLIENT_STREAMS
        self.has_room = True
        self.draining = False
        self.went_away = False
        self.last_peer_stream = 0
        self._next_stream = 1
        self._receive_window = CONNECTION_WINDOW
        self._owed = 0
        self._congested = False
        self._output: list[Chunk] = []
        self._output_size = 0
        self._last_data = 0
        """The stream whose DATA frame is the last in the output; 0: something else is."""
        self.batches = 0
        """How often the output was taken."""
        self.control_waiting = 0  # control frames put since the last write
        self._waiting: dict[int, Stream] = {}  # streams that could send but for the connection, in order of their turn
        self._encoder = hpack.Encoder()
        self._table_sizes: tuple[int, int] | None = None  # smallest and last that the peer set since we encoded
        self._control = ControlFrames(self)
        self._reader = FrameReader(self._control.on_frame, self._on_data, MAX_FRAME_RECEIVED)
        self._preface_left = frames.PREFACE if role is Role.SERVER else b""
        self._greet()

    # --- input ---

    def receive(self, data: Chunk) -> None:
        """Take bytes from the peer, cut anywhere. Raises PeerError: send ``go_away`` and close."""
        if self._preface_left:
            data = self._take_preface(data)
        if data:
            self._reader.feed(data)

    def _take_preface(self, data: Chunk) -> Chunk:
        expected = self._preface_left[: len(data)]
        if data[: len(expected)] != expected:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "the peer does not speak HTTP/2 (no connection preface)")
        self._preface_left = self._preface_left[len(expected) :]
        return data[len(expected) :]

    def _on_data(self, stream_id: int, counted: int, piece: Chunk, last: bool) -> None:
        control = self._control
        if not control.data_allowed:
            control.refuse_data()
        self._count_received(counted)
        stream = self.streams.get(stream_id)
        if stream is None:
            self._on_late_data(stream_id, counted)
            return
        if stream.remote_ended or (not stream.answer_seen and self.role is Role.CLIENT):  # or bytes before the answer
            control.fail_stream(stream, ErrorCode.STREAM_CLOSED if stream.remote_ended else ErrorCode.PROTOCOL_ERROR)
            return
        if not stream.receive_window.received(counted):
            raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, f"stream {stream_id}: more than was granted")
        if piece:
            control.idle_frames = 0
            if stream.receiver is not None:
                stream.ending = last
                stream.receiver.data(piece)
        elif counted:
            control.no_progress()  # padding
            stream.consumed(counted)
        elif not last:
            control.no_progress()
        if last and not stream.closed:
            self.end_remote(stream)

    def _on_late_data(self, stream_id: int, counted: int) -> None:
        """DATA that was in flight when we reset or forgot its stream."""
        if not self.was_opened(stream_id):
            raise PeerError(ErrorCode.PROTOCOL_ERROR, f"DATA on stream {stream_id}, which was never opened")
        if not counted:
            self._control.no_progress()

    def _count_received(self, octets: int) -> None:
        self._receive_window -= octets
        if self._receive_window < 0:
            raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "more than was granted on the connection")
        self._owed += octets
        if self._owed * 2 >= CONNECTION_WINDOW:
            self.put(frames.window_update(0, self._owed))
            self._receive_window += self._owed
            self._owed = 0

    def end_remote(self, stream: Stream) -> None:
        """The peer half-closed the stream."""
        stream.remote_ended = True
        if stream.receiver is not None:
            stream.receiver.ended_by_peer()
        if stream.local_ended and not stream.closed:
            self.forget(stream)

    def was_opened(self, stream_id: int) -> bool:
        """Whether a stream of this number can have existed."""
        if self.role is Role.CLIENT:
            return stream_id % 2 == 1 and stream_id < self._next_stream
        return stream_id % 2 == 1 and stream_id <= self.last_peer_stream

    # --- streams ---

    @property
    def can_open(self) -> bool:
        """Client: whether ``open_stream`` may be called now."""
        return (
            not self.draining
            and not self.went_away
            and len(self.streams) < self.peer_streams
            and self._next_stream < LAST_STREAM_ID
            and self.control_waiting < MAX_CONTROL_WAITING // 2
        )

    def open_stream(self, headers: Headers) -> Stream:
        """Client: open a stream with this request; bytes may follow without waiting for the answer."""
        if self.role is not Role.CLIENT or not self.can_open:
            raise LocalError("no stream can be opened on this connection now; ask can_open first")
        stream = Stream(self, self._next_stream, self.peer_first_window)
        self._next_stream += 2
        self.streams[stream.id] = stream
        self.put(frames.headers(stream.id, self._encode(headers)))
        return stream

    def accept_stream(self, stream_id: int, headers: Headers, *, ended: bool) -> None:
        """Server: for the control frames, a peer's request on a new stream."""
        self.last_peer_stream = stream_id
        if self.went_away or len(self.streams) >= SERVER_STREAMS:
            self._control.reply(frames.rst_stream(stream_id, ErrorCode.REFUSED_STREAM))
            return
        stream = Stream(self, stream_id, self.peer_first_window)
        stream.remote_ended = ended
        self.streams[stream_id] = stream
        self.listener.stream_opened(stream, headers, ended=ended)

    def respond(self, stream: Stream, headers: Headers, *, end: bool = False) -> None:
        """Server: answer the request of a stream; with ``end`` nothing follows."""
        if stream.closed or stream.local_ended:
            return
        self.put(frames.headers(stream.id, self._encode(headers), end_stream=end))
        stream.answer_seen = True
        self._control.stream_answered()
        if end:
            stream.local_ended = True
            if stream.remote_ended:
                self.forget(stream)
            else:
                stream.reset(ErrorCode.NO_ERROR)  # RFC 9113, 8.1: we need no more of the request

    def forget(self, stream: Stream) -> None:
        """Take a finished stream out; its room and its turn are given back."""
        if stream.closed:
            return
        stream.closed = stream.local_ended = stream.remote_ended = True
        stream.queue.clear()
        stream.queued = 0
        stream.receive_window.close()
        self._waiting.pop(stream.id, None)
        self.streams.pop(stream.id, None)
        self.listener.stream_closed(stream)

    def abandon(self, code: int) -> None:
        """The connection is lost: every stream's receiver is told so, and no stream is left."""
        self.draining = self.went_away = True
        self.reset_streams(lambda _: True, code)

    def reset_streams(self, chosen: Callable[[Stream], bool], code: int) -> None:
        """Tell the receivers of the chosen streams that they are gone, and forget them."""
        for stream in [s for s in self.streams.values() if chosen(s)]:
            if stream.closed:  # by what the receiver of another did
                continue
            self.forget(stream)
            if stream.receiver is not None:
                stream.receiver.reset(code)

    # --- output ---

    def put(self, frame: bytes) -> None:
        """Queue a control frame for the next write."""
        self.control_waiting += 1
        self._last_data = 0
        self._output.append(frame)
        if len(self._output) == 1:
            self.listener.output_ready()

    def put_data(self, stream_id: int, data: Chunk, size: int) -> None:
        """Queue a DATA frame whose windows were paid by the caller."""
        output = self._output
        output.append(frames.header(size, frames.DATA, 0, stream_id))
        output.append(data)
        self._last_data = stream_id
        self._output_size += size
        if self._output_size >= MAX_OUTPUT:
            self.has_room = False
        if len(output) == 2:
            self.listener.output_ready()

    def put_end(self, stream_id: int) -> None:
        """Queue the end of a stream: on its last DATA frame if that is the last in the queue, else on an empty one."""
        if self._last_data == stream_id:
            self._output[-2] = frames.header(len(self._output[-1]), frames.DATA, frames.END_STREAM, stream_id)
            self._last_data = 0
        else:
            self.put(frames.header(0, frames.DATA, frames.END_STREAM, stream_id))

    def take_output(self) -> bytes:
        """``take_parts`` in one piece."""
        return b"".join(self.take_parts())

    def take_parts(self) -> list[Chunk]:
        """Everything to be written now, in order: headers, contents, control frames; empty if there is nothing."""
        parts, self._output = self._output, []
        self.batches += 1
        self._last_data = self._output_size = self.control_waiting = 0
        self._control.output_taken()
        self.has_room = not self._congested
        if self._waiting and self.has_room:
            self._drain_waiting()
        return parts

    def keep_output(self) -> None:
        """What was lent and not taken is copied: its owner is going to change it."""
        self._output = [bytes(part) if type(part) is memoryview else part for part in self._output]

    def congested(self, yes: bool) -> None:
        """The transport below is full (or no longer): streams queue and their sources stop, control frames wait."""
        self._congested = yes
        self.has_room = not yes and self._output_size < MAX_OUTPUT
        if not yes:
            self._drain_waiting()

    def drain_stream(self, stream: Stream) -> None:
        """Send what waits in the stream's queue as far as windows and room allow, in frames of the agreed size."""
        queue = stream.queue
        while queue and self.has_room:
            allowed = min(stream.send_window, self.send_window, self.max_send_frame)
            if allowed <= 0:
                break
            chunk = queue[0]
            size = len(chunk)
            if size > allowed:
                view = memoryview(chunk)
                chunk, queue[0], size = view[:allowed], view[allowed:], allowed
            else:
                queue.popleft()
            stream.send_window -= size
            stream.queued -= size
            self.send_window -= size
            self.put_data(stream.id, chunk, size)
        if queue and stream.send_window > 0:
            self._waiting.setdefault(stream.id, stream)
        else:  # nothing waits, or it waits for its own window, which drains it
            self._waiting.pop(stream.id, None)

    def window_opened(self, stream: Stream | None) -> None:
        """For the control frames: the peer granted more, on one stream or (None) on the connection."""
        if stream is None:
            self._drain_waiting()
        elif stream.queue:
            self._drain_one(stream)

    def _drain_waiting(self) -> None:
        for stream in list(self._waiting.values()):
            if not self.has_room or self.send_window <= 0:
                break
            if stream.id not in self._waiting:  # a callback of another stream's turn closed or emptied it
                continue
            self._drain_one(stream)
            if stream.id in self._waiting:  # it had its turn: to the back
                self._waiting[stream.id] = self._waiting.pop(stream.id)

    def _drain_one(self, stream: Stream) -> None:
        self.drain_stream(stream)
        if stream.queue or stream.closed:
            return
        if stream.end_wanted and not stream.local_ended:
            stream.send_end()
        elif stream.receiver is not None:
            stream.receiver.writable()

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR, text: str = "") -> None:
        """Tell the peer that no new streams are taken (drain), or why the connection ends (error)."""
        if not self.went_away or code is not ErrorCode.NO_ERROR:
            self.went_away = True
            self.put(frames.goaway(self.last_peer_stream, code, text.encode()[:256]))

    def ping(self) -> None:
        """Ask the peer for a sign of life; ``Listener.pong`` tells of it."""
        self._control.pings += 1
        self.put(frames.ping(b"nodemesh"))

    def _greet(self) -> None:
        values = {
            frames.HEADER_TABLE_SIZE: DECODER_TABLE,
            frames.INITIAL_WINDOW_SIZE: FIRST_STREAM_WINDOW,
            frames.MAX_FRAME_SIZE: MAX_FRAME_RECEIVED,
            frames.MAX_HEADER_LIST_SIZE: MAX_HEADER_LIST,
        }
        if self.role is Role.CLIENT:
            values[frames.ENABLE_PUSH] = 0
            self.put(frames.PREFACE)
        else:
            values[frames.MAX_CONCURRENT_STREAMS] = SERVER_STREAMS
        self.put(frames.settings(values))
        self.put(frames.window_update(0, CONNECTION_WINDOW - 65_535))

    def _encode(self, headers: Headers) -> bytes:
        if self._table_sizes is None:
            return plain.encode(headers)
        for size in self._table_sizes:
            if size != self._encoder.header_table_size:  # the encoder would forget to announce a change set twice
                self._encoder.header_table_size = size
        self._table_sizes = None
        block: bytes = self._encoder.encode(headers, huffman=False)
        return block

    def peer_table_size(self, size: int) -> None:
        """The peer's header table takes at most so many octets; told with our next block (RFC 7541, section 4.2)."""
        size = min(size, ENCODER_TABLE)
        self._table_sizes = (min(size, self._table_sizes[0]) if self._table_sizes else size, size)
