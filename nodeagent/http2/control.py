"""Every frame but DATA: what a peer may say besides bytes, and the bounds on how often it may say it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from nodeagent.http2 import frames
from nodeagent.http2.blocks import HeaderBlocks
from nodeagent.http2.content import read_response, read_trailers, request_content
from nodeagent.http2.errors import ErrorCode, PeerError
from nodeagent.http2.hpack.field import STATUS, Field
from nodeagent.http2.limits import (
    MAX_CONTROL_WAITING,
    MAX_EARLY_RESETS,
    MAX_FRAME_SENT,
    MAX_IDLE_FRAMES,
    MAX_REPLIES,
    MAX_SETTINGS,
    NEW_STREAMS_A_TURN,
    OLD_TICKS,
)
from nodeagent.http2.output import Output
from nodeagent.http2.stream import Stream
from nodeagent.http2.table import ConnectionOwner, Role, StreamTable


class ControlFrames:
    """The half of a connection that reads control frames."""

    def __init__(self, table: StreamTable, output: Output, blocks: HeaderBlocks, owner: ConnectionOwner) -> None:
        self.hold: Callable[[], None] = lambda: None
        """Stops the reader after the current frame."""
        self._table = table
        self._output = output
        self._blocks = blocks
        self._owner = owner
        self._limits = table.limits
        self._block = b""  # a header block that CONTINUATION frames go on with
        self._block_stream = 0
        self._block_ends = False
        self._replies = 0
        self._early_resets = 0
        self.settled = False
        self.data_allowed = False  # settled, and no header block is open
        self.idle_frames = 0  # since something useful arrived
        self.pings = 0  # ours that are not answered
        self._by_kind: dict[int, Callable[[int, int, bytes], None]] = {
            frames.HEADERS: self._on_headers,
            frames.CONTINUATION: self._on_continuation,
            frames.RST_STREAM: self._on_rst_stream,
            frames.SETTINGS: self._on_settings,
            frames.PING: self._on_ping,
            frames.GOAWAY: self._on_goaway,
            frames.WINDOW_UPDATE: self._on_window_update,
            frames.PUSH_PROMISE: self._on_push_promise,
            frames.PRIORITY: self._on_priority,
            frames.URGENT: self._on_urgent,
        }

    def on_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """Take one frame. Unknown types and PRIORITY are ignored, within bounds."""
        if not self.settled and kind != frames.SETTINGS:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "the peer's first frame is not SETTINGS")
        if self._block_stream and kind != frames.CONTINUATION:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "a header block was interrupted by another frame")
        handler = self._by_kind.get(kind)
        if handler is None:
            self.no_progress()
            return
        handler(flags, stream_id, payload)
        if self._output.control_waiting > MAX_CONTROL_WAITING:
            raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, "the peer causes frames that it does not read")

    def refuse_data(self) -> None:
        """Say why DATA is not allowed now."""
        if not self.settled:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "the peer's first frame is not SETTINGS")
        raise PeerError(ErrorCode.PROTOCOL_ERROR, "a header block was interrupted by DATA")

    def no_progress(self) -> None:
        """A frame arrived that carries nothing."""
        self.idle_frames += 1
        if self.idle_frames > MAX_IDLE_FRAMES:
            raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, f"{MAX_IDLE_FRAMES} frames in a row that carry nothing")

    def output_taken(self) -> None:
        """What we replied is on its way: the peer reads."""
        self._replies = 0

    def reply(self, frame: bytes) -> None:
        """Queue what a peer's frame asks for or provokes."""
        self._replies += 1
        if self._replies > MAX_REPLIES:
            raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, "the peer asks without reading the answers")
        self._output.put(frame)

    def fail_stream(self, stream: Stream, code: ErrorCode, why: str = "") -> None:
        """The peer broke the protocol on one stream: reset it and tell its receiver; its neighbours go on."""
        self._count_early_reset(stream)
        stream.fault = why
        stream.reset(code)
        if stream.receiver is not None:
            stream.receiver.reset(code)

    def _count_early_reset(self, stream: Stream) -> None:
        table = self._table
        if table.role is not Role.SERVER:
            return
        if not stream.carried and table.ticks - stream.born < OLD_TICKS:
            self._count_empty_reset()
        if not stream.answer_seen:
            self._count_early()

    def _count_empty_reset(self) -> None:
        if not self._table.resets.spend():
            raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, "the peer opens streams, sends nothing and resets them")

    def _count_early(self) -> None:
        self._early_resets += 1
        if self._early_resets > MAX_EARLY_RESETS:
            raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, "the peer opens streams only to reset them")

    # --- header blocks ---

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id == 0:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 0")
        block = _unpadded(flags, payload)
        if flags & frames.PRIORITY_FLAG:
            if len(block) < 5:
                raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            block = block[5:]
        self._block_ends = bool(flags & frames.END_STREAM)
        if flags & frames.END_HEADERS:
            self._on_block(stream_id, block)
        else:
            self._block, self._block_stream = block, stream_id
            self.data_allowed = False

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not self._block_stream or stream_id != self._block_stream:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without a header block to continue")
        if not payload:
            self.no_progress()
        self._block += payload
        if len(self._block) > self._limits.header_block:
            raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, f"a header block over {self._limits.header_block} octets")
        if flags & frames.END_HEADERS:
            block, self._block, self._block_stream = self._block, b"", 0
            self.data_allowed = True
            self._on_block(stream_id, block)

    def _on_block(self, stream_id: int, block: bytes) -> None:
        fields, excess = self._blocks.decode(block)
        table = self._table
        stream = table.streams.get(stream_id)
        if stream is not None:
            if excess:
                self.fail_stream(stream, ErrorCode.ENHANCE_YOUR_CALM, excess)
            else:
                self._on_later_block(stream, fields)
        elif table.was_opened(stream_id):
            if table.role is Role.SERVER and not self._is_trailers(fields):
                raise PeerError(ErrorCode.PROTOCOL_ERROR, f"a request on stream {stream_id}, whose number was used")
            self.no_progress()  # an answer or trailers of a stream that we reset
        elif table.role is Role.CLIENT or stream_id % 2 == 0:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}, which was never opened")
        elif excess:
            self._refuse(stream_id, excess)
            self._output.put_headers(stream_id, _TOO_LARGE, end=True)
            if not self._block_ends:
                self.reply(frames.rst_stream(stream_id, ErrorCode.NO_ERROR))
        else:
            self._on_request(stream_id, fields)

    def _on_request(self, stream_id: int, fields: list[Field]) -> None:
        table, expected = self._table, -1
        if self._limits.checked:
            fault, expected = request_content(fields, ended=self._block_ends)
            if fault:
                self._refuse(stream_id, fault)
                self.reply(frames.rst_stream(stream_id, ErrorCode.PROTOCOL_ERROR))
                return
        if not table.accept(stream_id, fields, ended=self._block_ends):
            self.reply(frames.rst_stream(stream_id, ErrorCode.REFUSED_STREAM))
            return
        if expected >= 0 and stream_id in table.streams:
            table.streams[stream_id].expected = expected
        if table.new_in_turn >= NEW_STREAMS_A_TURN:
            self.hold()

    def _refuse(self, stream_id: int, why: str) -> None:
        """A request that does not become a stream, by the peer's mistake."""
        self._table.last_peer_stream = stream_id
        self._count_empty_reset()
        self._count_early()
        self._owner.request_refused(why)

    def _is_trailers(self, fields: list[Field]) -> bool:
        return self._block_ends and not any(field.kind <= STATUS for field in fields)

    def _on_later_block(self, stream: Stream, fields: list[Field]) -> None:
        if stream.remote_ended:
            self.fail_stream(stream, ErrorCode.STREAM_CLOSED)
            return
        answers = self._table.role is Role.CLIENT and not stream.answer_seen
        fault = "" if answers or self._block_ends else "trailers that do not end their stream (8.1)"
        if self._limits.checked and not fault:
            read = read_response if answers else read_trailers
            fault = read(stream, fields, ended=self._block_ends)
        if fault:
            self.fail_stream(stream, ErrorCode.PROTOCOL_ERROR, fault)
            return
        receiver = stream.receiver
        if answers and not self._block_ends and _is_interim(fields):
            self.no_progress()
            if receiver is not None:
                receiver.interim(fields)
            return
        if answers:
            stream.answer_seen = True
            self.idle_frames = 0
            if receiver is not None:
                receiver.answered(fields)
        elif receiver is not None:
            receiver.trailers(fields)
        if self._block_ends and not stream.closed:
            self._table.end_remote(stream)

    # --- the others ---

    def _on_rst_stream(self, _flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM must have 4 octets")
        table = self._table
        stream = table.streams.get(stream_id)
        if stream is None:
            if not table.was_opened(stream_id):
                raise PeerError(ErrorCode.PROTOCOL_ERROR, f"RST_STREAM on stream {stream_id}, which was never opened")
            self.no_progress()
            return
        self._count_early_reset(stream)
        code = frames.read_code(payload)
        table.reset(lambda other: other is stream, code)

    def stream_answered(self) -> None:
        """A request lived long enough to be answered: the peer does real work."""
        self.idle_frames = 0
        if self._early_resets:
            self._early_resets -= 1

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & frames.ACK:
            if payload:
                raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement of SETTINGS with a payload")
            if not self.settled:
                raise PeerError(ErrorCode.PROTOCOL_ERROR, "the peer's first frame is not SETTINGS")
            self.no_progress()
            self._blocks.settings_acknowledged()
            return
        settings = frames.read_settings(payload)
        if len(settings) > MAX_SETTINGS:
            raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, f"{len(settings)} settings in one frame")
        self.reply(
            frames.SETTINGS_ACK
        )  # before the DATA that they allow: many a peer applies its settings when this comes
        for key, value in settings:
            self._on_setting(key, value)
        if not self.settled:
            self.settled = self.data_allowed = True
            self._output.takes_urgent = bool(self._output.takes_urgent)
            self._owner.settled()

    def _on_setting(self, key: int, value: int) -> None:
        table = self._table
        if key == frames.INITIAL_WINDOW_SIZE:
            if value > frames.LARGEST_WINDOW:
                raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE of {value}")
            change, table.peer_first_window = value - table.peer_first_window, value
            for stream in list(table.streams.values()):
                if not self._grant(stream, change):
                    raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, f"stream {stream.id}: window over 2^31-1")
        elif key == frames.MAX_FRAME_SIZE:
            if not frames.DEFAULT_MAX_FRAME <= value <= frames.LARGEST_FRAME:
                raise PeerError(ErrorCode.PROTOCOL_ERROR, f"MAX_FRAME_SIZE of {value}")
            self._output.max_frame = min(value, MAX_FRAME_SENT)
        elif key == frames.MAX_CONCURRENT_STREAMS:
            table.peer_streams = min(value, self._limits.client_streams)
        elif key == frames.HEADER_TABLE_SIZE:
            self._blocks.peer_table_size(value)
        elif key == frames.TAKES_URGENT:
            self._output.takes_urgent = value == 1
        elif key == frames.ENABLE_PUSH and (value > 1 or (value and table.role is Role.CLIENT)):
            raise PeerError(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH of {value}")

    def _on_urgent(self, _flags: int, stream_id: int, payload: bytes) -> None:
        """Like any frame of a type that we do not know, one for a stream that is over carries nothing."""
        if stream_id == 0 or payload:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "URGENT without a stream, or with a payload")
        self.no_progress()
        stream = self._table.streams.get(stream_id)
        if stream is not None:
            stream.urgent_next = True

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "PING must have 8 octets")
        if not flags & frames.ACK:
            self.reply(frames.ping(payload, ack=True))
        elif self.pings:
            self.pings -= 1
            self._owner.pong()
        else:
            self.no_progress()

    def _on_goaway(self, _flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY is too short")
        table, last = self._table, frames.read_u32(payload)
        if table.draining:
            self.no_progress()
        table.draining = True
        if table.role is Role.CLIENT:  # what the peer never looked at was refused
            table.reset(lambda stream: stream.id > last, ErrorCode.REFUSED_STREAM)
        text = bytes(payload[8:264]).decode("utf-8", "replace")
        self._owner.draining(frames.read_code(payload, 4), text)

    def _on_window_update(self, _flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE must have 4 octets")
        increment, table = frames.read_u32(payload), self._table
        if stream_id == 0:
            self._grant_connection(increment)
            return
        stream = table.streams.get(stream_id)
        if stream is None:
            if not table.was_opened(stream_id):
                raise PeerError(ErrorCode.PROTOCOL_ERROR, f"WINDOW_UPDATE on idle stream {stream_id}")
        elif not increment:
            self.fail_stream(stream, ErrorCode.PROTOCOL_ERROR)
        elif not self._grant(stream, increment):
            self.fail_stream(stream, ErrorCode.FLOW_CONTROL_ERROR)

    def _grant_connection(self, octets: int) -> None:
        output = self._output
        if not octets:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0 on the connection")
        if output.send_window + octets > frames.LARGEST_WINDOW:
            raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window over 2^31-1")
        was_shut = output.send_window <= 0
        output.send_window += octets
        if was_shut:  # else no stream can have waited for it
            self._table.drain_waiting()

    def _grant(self, stream: Stream, octets: int) -> bool:
        """Change a stream's window; False if that makes it larger than a window can be."""
        if stream.send_window + octets > frames.LARGEST_WINDOW:
            return False
        stream.send_window += octets
        if octets > 0:
            self._table.window_opened(stream)
        return True

    def _on_priority(self, _flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if len(payload) != 5:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY must have 5 octets")
        self.no_progress()

    def _on_push_promise(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        raise PeerError(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE, which nobody asked for")


_TOO_LARGE: Final = [Field(b":status", b"431")]


def _is_interim(fields: list[Field]) -> bool:
    return any(field.kind == STATUS and field.value.startswith(b"1") for field in fields)


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & frames.PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise PeerError(ErrorCode.PROTOCOL_ERROR, "more padding than payload")
    return payload[1 : len(payload) - payload[0]]
