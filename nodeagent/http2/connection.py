"""One HTTP/2 connection, either role. Sans-io.

Source: RFC 9113; the limits follow istio/ztunnel. Bytes in through ``receive``; bytes out: the owner's
``output_ready`` is called once when there is something, then ``take_parts`` gives all of it, so that a turn of the
loop costs one write.

Four objects share the work, each with its own state: ``Output`` (what waits to be written), ``StreamTable`` (the
streams), ``HeaderBlocks`` (header compression), ``ControlFrames`` (reads every frame but DATA).
"""

from __future__ import annotations

from nodeagent.http2 import frames
from nodeagent.http2.blocks import HeaderBlocks
from nodeagent.http2.content import WRONG_LENGTH, note_method
from nodeagent.http2.control import ControlFrames
from nodeagent.http2.errors import ErrorCode, PeerError
from nodeagent.http2.frames import Chunk, FrameReader
from nodeagent.http2.hpack.field import Field
from nodeagent.http2.limits import MAX_FRAME_RECEIVED, TUNNEL_LIMITS, ConnectionLimits
from nodeagent.http2.output import Output
from nodeagent.http2.stream import Stream
from nodeagent.http2.table import ConnectionOwner, Role, StreamTable
from nodeagent.http2.windows import CONNECTION_WINDOW, FIRST_STREAM_WINDOW, WindowBudget


class Http2Connection:
    """The state of one connection. Not thread safe; no clock: the owner pings and times out."""

    def __init__(
        self,
        role: Role,
        owner: ConnectionOwner,
        budget: WindowBudget | None = None,
        limits: ConnectionLimits = TUNNEL_LIMITS,
    ) -> None:
        self.role = role
        blocks = HeaderBlocks(limits)
        self.output = Output(owner.output_ready, blocks)
        self.table = StreamTable(role, owner, self.output, budget if budget is not None else WindowBudget(), limits)
        self._control = ControlFrames(self.table, self.output, blocks, owner)
        self._receive_window = CONNECTION_WINDOW
        self._owed = 0
        max_control = max(frames.MAX_CONTROL_FRAME, limits.header_block)
        self._reader = FrameReader(self._control.on_frame, self._on_data, MAX_FRAME_RECEIVED, max_control)
        self._control.hold = self._reader.hold
        self._preface_left = frames.PREFACE if role is Role.SERVER else b""
        self._greet()

    @property
    def streams(self) -> dict[int, Stream]:
        """The streams that live, by number."""
        return self.table.streams

    @property
    def leaving(self) -> bool:
        """Whether either side takes no more streams."""
        return self.table.draining or self.table.went_away

    # --- input ---

    def receive(self, data: Chunk) -> None:
        """Take bytes from the peer, cut anywhere. Raises PeerError: send ``go_away`` and close."""
        if self._preface_left:
            data = self._take_preface(data)
        if data:
            self._reader.feed(data)

    @property
    def held(self) -> bool:
        """Whether the peer has opened as many streams as one turn may bring: feed no more, and ``go_on`` next turn."""
        return self._reader.held

    def go_on(self) -> None:
        """A new turn: take what was kept back. As ``receive``."""
        self.table.new_in_turn = 0
        self._reader.release()

    def tick(self) -> None:
        """For the owner, once a second or so: streams grow older."""
        self.table.ticks += 1

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
        stream = self.table.streams.get(stream_id)
        if stream is None:
            self._on_late_data(stream_id, counted)
            return
        if stream.remote_ended or (not stream.answer_seen and self.role is Role.CLIENT):  # or bytes before the answer
            control.fail_stream(stream, ErrorCode.STREAM_CLOSED if stream.remote_ended else ErrorCode.PROTOCOL_ERROR)
            return
        if not stream.receive_window.received(counted):
            raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, f"stream {stream_id}: more than was granted")
        if stream.expected >= 0 and not self._as_announced(stream, len(piece), last=last):
            return
        if piece:
            control.idle_frames = 0
            stream.carried = True
            if stream.urgent_next:
                piece = self._take_urgent(stream, piece)
            if stream.receiver is not None and piece:
                stream.ending = last
                stream.receiver.data(piece)
        elif counted:
            control.no_progress()  # padding
            stream.consumed(counted)
        elif not last:
            control.no_progress()
        if last and not stream.closed:
            self.table.end_remote(stream)

    def _as_announced(self, stream: Stream, octets: int, *, last: bool) -> bool:
        """Whether the content is as long as its content-length says (RFC 9113, 8.1.1); if not, the stream failed."""
        stream.expected -= octets
        if stream.expected < 0 or (last and stream.expected):
            self._control.fail_stream(stream, ErrorCode.PROTOCOL_ERROR, WRONG_LENGTH)
            return False
        return True

    def _take_urgent(self, stream: Stream, piece: Chunk) -> Chunk:
        """The first octet by itself; the rest of the piece."""
        stream.urgent_next = stream.ending = False
        if stream.receiver is not None:
            stream.receiver.urgent(bytes(piece[:1]))
        return piece[1:]

    def _on_late_data(self, stream_id: int, counted: int) -> None:
        """DATA that was in flight when we reset or forgot its stream."""
        if not self.table.was_opened(stream_id):
            raise PeerError(ErrorCode.PROTOCOL_ERROR, f"DATA on stream {stream_id}, which was never opened")
        if not counted:
            self._control.no_progress()

    def _count_received(self, octets: int) -> None:
        self._receive_window -= octets
        if self._receive_window < 0:
            raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "more than was granted on the connection")
        self._owed += octets
        if self._owed * 2 >= CONNECTION_WINDOW:
            self.output.put(frames.window_update(0, self._owed))
            self._receive_window += self._owed
            self._owed = 0

    # --- streams ---

    @property
    def can_open(self) -> bool:
        """Client: whether ``open_stream`` may be called now."""
        return self.table.can_open

    def open_stream(self, fields: list[Field], *, end: bool = False) -> Stream:
        """Client: open a stream with this request; bytes may follow without waiting for the answer, but not with
        ``end``.
        """
        stream = self.table.open()
        if self.table.limits.checked:
            note_method(stream, fields)
        self.output.put_headers(stream.id, fields, end=end)
        stream.local_ended = end
        return stream

    def inform(self, stream: Stream, fields: list[Field]) -> None:
        """Server: send an interim response (1xx) before ``respond``."""
        if not stream.closed and not stream.local_ended and not stream.answer_seen:
            self.output.put_headers(stream.id, fields)

    def respond(self, stream: Stream, fields: list[Field], *, end: bool = False) -> None:
        """Server: answer the request of a stream; with ``end`` nothing follows."""
        if stream.closed or stream.local_ended:
            return
        self.output.put_headers(stream.id, fields, end=end)
        stream.answer_seen = True
        self._control.stream_answered()
        if end:
            stream.local_ended = True
            if stream.remote_ended:
                self.table.forget(stream)
            else:
                stream.reset(ErrorCode.NO_ERROR)  # RFC 9113, 8.1: we need no more of the request

    def abandon(self, code: int) -> None:
        """The connection is lost: every stream's receiver is told so, and no stream is left."""
        self.table.draining = self.table.went_away = True
        self.table.reset(lambda _: True, code)

    # --- output ---

    def take_output(self) -> bytes:
        """``take_parts`` in one piece."""
        return b"".join(self.take_parts())

    def take_parts(self) -> list[Chunk]:
        """Everything to be written now, in order: headers, contents, control frames; empty if there is nothing."""
        parts = self.output.take()
        self._control.output_taken()
        self.table.new_in_turn = 0
        if self.output.waiting and self.output.has_room:
            self.table.drain_waiting()
        return parts

    def congested(self, yes: bool) -> None:
        """The transport below is full (or no longer): streams queue and their sources stop, control frames wait."""
        self.output.congested(yes)
        if not yes:
            self.table.drain_waiting()

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR, text: str = "") -> None:
        """Tell the peer that no new streams are taken (drain), or why the connection ends (error)."""
        table = self.table
        if not table.went_away or code is not ErrorCode.NO_ERROR:
            table.went_away = True
            self.output.put(frames.goaway(table.last_peer_stream, code, text.encode()[:256]))

    def ping(self) -> None:
        """Ask the peer for a sign of life; the owner's ``pong`` tells of it."""
        self._control.pings += 1
        self.output.put(frames.ping(b"nodemesh"))

    def _greet(self) -> None:
        limits = self.table.limits
        values = {
            frames.HEADER_TABLE_SIZE: limits.decoder_table,
            frames.INITIAL_WINDOW_SIZE: FIRST_STREAM_WINDOW,
            frames.MAX_FRAME_SIZE: MAX_FRAME_RECEIVED,
            frames.MAX_HEADER_LIST_SIZE: limits.header_list,
            frames.TAKES_URGENT: 1,
        }
        if self.role is Role.CLIENT:
            values[frames.ENABLE_PUSH] = 0
            self.output.put(frames.PREFACE)
        else:
            values[frames.MAX_CONCURRENT_STREAMS] = limits.server_streams
        self.output.put(frames.settings(values))
        self.output.put(frames.window_update(0, CONNECTION_WINDOW - 65_535))
