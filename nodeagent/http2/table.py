"""The streams of one connection, and what both sides agreed about streams in general."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Protocol

from nodeagent.http2.errors import LocalError
from nodeagent.http2.hpack.field import Field
from nodeagent.http2.limits import LAST_STREAM_ID, MAX_CONTROL_WAITING, ConnectionLimits
from nodeagent.http2.output import Output
from nodeagent.http2.resets import ResetBudget
from nodeagent.http2.stream import Stream
from nodeagent.http2.windows import WindowBudget


class Role(Enum):
    """Which end of the connection this is. The client opens streams, the server answers them."""

    CLIENT = "client"
    SERVER = "server"


class ConnectionOwner(Protocol):
    """What a connection tells its owner."""

    def output_ready(self) -> None:
        """``take_parts`` has something; called once until it is taken, which must not happen within this call."""

    def stream_opened(self, stream: Stream, fields: list[Field], *, ended: bool) -> None:
        """Server: a peer opened a stream; set ``stream.receiver`` now and answer with ``respond``."""

    def request_refused(self, why: str) -> None:
        """Server: a request was answered with 431 or reset, and became no stream, for this reason."""

    def settled(self) -> None:
        """The peer's first SETTINGS arrived: it speaks the protocol."""

    def draining(self, code: int, text: str) -> None:
        """The peer sent GOAWAY: open no more streams; live ones go on."""

    def pong(self) -> None:
        """The peer answered our ping."""

    def stream_closed(self, stream: Stream) -> None:
        """The stream is gone (however it ended)."""


class StreamTable:
    """Which streams live, which numbers were used, and who may open more."""

    def __init__(
        self, role: Role, owner: ConnectionOwner, output: Output, budget: WindowBudget, limits: ConnectionLimits
    ) -> None:
        self.role = role
        self.limits = limits
        self.streams: dict[int, Stream] = {}
        self.peer_first_window = 65_535
        """Octets that the peer grants on a new stream."""
        self.peer_streams = limits.client_streams
        """Streams that the peer lets us open at one time."""
        self.draining = False
        """The peer wants no more streams."""
        self.went_away = False
        """We take no more streams."""
        self.last_peer_stream = 0
        self.budget = budget
        self.resets = ResetBudget()
        """What is left to the peer; the owner may put another in its place."""
        self.ticks = 0
        self.new_in_turn = 0
        """Streams that the peer opened since output was taken last."""
        self._owner = owner
        self._output = output
        self._next = 1
        self._gone = self.forget

    @property
    def can_open(self) -> bool:
        """Client: whether ``open`` may be called now."""
        return (
            not self.draining
            and not self.went_away
            and len(self.streams) < self.peer_streams
            and self._next < LAST_STREAM_ID
            and self._output.control_waiting < MAX_CONTROL_WAITING // 2
        )

    def open(self) -> Stream:
        """Client: a new stream. LocalError where ``can_open`` is False."""
        if self.role is not Role.CLIENT or not self.can_open:
            raise LocalError("no stream can be opened on this connection now; ask can_open first")
        stream = self._new(self._next)
        self._next += 2
        return stream

    def accept(self, stream_id: int, fields: list[Field], *, ended: bool) -> bool:
        """Server: a peer's request on a new stream. False: it is refused."""
        self.last_peer_stream = stream_id
        if self.went_away or len(self.streams) >= self.limits.server_streams:
            return False
        stream = self._new(stream_id)
        stream.remote_ended = ended
        self.new_in_turn += 1
        self._owner.stream_opened(stream, fields, ended=ended)
        return True

    def _new(self, stream_id: int) -> Stream:
        stream = Stream(self._output, self.budget, stream_id, self.peer_first_window, self._gone)
        stream.born = self.ticks
        self.streams[stream_id] = stream
        return stream

    def was_opened(self, stream_id: int) -> bool:
        """Whether a stream of this number can have existed."""
        if self.role is Role.CLIENT:
            return stream_id % 2 == 1 and stream_id < self._next
        return stream_id % 2 == 1 and stream_id <= self.last_peer_stream

    def end_remote(self, stream: Stream) -> None:
        """The peer half-closed the stream."""
        stream.remote_ended = True
        if stream.receiver is not None:
            stream.receiver.ended_by_peer()
        if stream.local_ended and not stream.closed:
            self.forget(stream)

    def forget(self, stream: Stream) -> None:
        """Take a finished stream out; its room and its turn are given back."""
        if stream.closed:
            return
        stream.closed = stream.local_ended = stream.remote_ended = True
        stream.queue.clear()
        stream.queued = 0
        stream.receive_window.close()
        self._output.waiting.pop(stream.id, None)
        self.streams.pop(stream.id, None)
        self._owner.stream_closed(stream)

    def reset(self, chosen: Callable[[Stream], bool], code: int) -> None:
        """Tell the receivers of the chosen streams that they are gone, and forget them."""
        for stream in [s for s in self.streams.values() if chosen(s)]:
            if stream.closed:  # by what the receiver of another did
                continue
            self.forget(stream)
            if stream.receiver is not None:
                stream.receiver.reset(code)

    def window_opened(self, stream: Stream) -> None:
        """The peer granted more on this stream."""
        if stream.queue:
            self._drain(stream)

    def drain_waiting(self) -> None:
        """Let streams that wait for the connection send, each in its turn, as far as there is room."""
        output, waiting = self._output, self._output.waiting
        for stream_id in list(waiting):
            if not output.has_room or output.send_window <= 0:
                break
            if stream_id not in waiting:  # a callback of another stream's turn closed or emptied it
                continue
            self._drain(self.streams[stream_id])
            if stream_id in waiting:  # it had its turn: to the back
                del waiting[stream_id]
                waiting[stream_id] = None

    def _drain(self, stream: Stream) -> None:
        stream.drain()
        if stream.queue or stream.closed:
            return
        if stream.end_wanted and not stream.local_ended:
            stream.send_end()
        elif stream.receiver is not None:
            stream.receiver.writable()
