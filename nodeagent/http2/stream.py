"""One stream: who may still send, how much, and what waits for room.

The states are RFC 9113's (section 5.1) as two flags, ``local_ended`` and ``remote_ended``, plus ``closed`` (both, or a
reset).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from nodeagent.http2 import frames
from nodeagent.http2.errors import ErrorCode
from nodeagent.http2.frames import Chunk
from nodeagent.http2.hpack.field import Field
from nodeagent.http2.output import Output
from nodeagent.http2.windows import ReceiveWindow, WindowBudget


class StreamReceiver(Protocol):
    """What a stream tells its owner. Calls come from within ``Http2Connection.receive``."""

    def interim(self, fields: list[Field]) -> None:
        """An interim response (1xx) arrived (client only, before ``answered``)."""

    def answered(self, fields: list[Field]) -> None:
        """The response arrived (client only, once)."""

    def data(self, piece: Chunk) -> None:
        """Bytes arrived. They count against the peer's window until ``Stream.consumed`` is called for them."""

    def trailers(self, fields: list[Field]) -> None:
        """The message has trailers; ``ended_by_peer`` follows at once."""

    def urgent(self, piece: bytes) -> None:
        """An octet of urgent data arrived, at its place among those of ``data``; it counts like them."""

    def ended_by_peer(self) -> None:
        """The peer will send no more (half-close). Not called after ``reset``."""

    def reset(self, code: int) -> None:
        """The stream is gone: the peer reset it, or refused it, or its connection was lost. The last call."""

    def writable(self) -> None:
        """Everything that waited for room was sent: the source may go on."""


class Stream:
    """A stream. Made by ``StreamTable.open`` (client) or ``StreamTable.accept`` (server)."""

    __slots__ = (
        "_gone",
        "answer_seen",
        "born",
        "carried",
        "closed",
        "end_wanted",
        "ending",
        "expected",
        "fault",
        "id",
        "local_ended",
        "no_content",
        "output",
        "queue",
        "queued",
        "receive_window",
        "receiver",
        "remote_ended",
        "send_window",
        "trailers",
        "tunnel",
        "urgent_next",
    )

    def __init__(
        self, output: Output, budget: WindowBudget, stream_id: int, send_window: int, gone: Callable[[Stream], None]
    ) -> None:
        """``gone`` takes the stream out of its table when it is over."""
        self.output = output
        self._gone = gone
        self.id = stream_id
        self.receiver: StreamReceiver | None = None
        self.send_window = send_window
        self.receive_window = ReceiveWindow(budget)
        self.queue: deque[Chunk] = deque()
        """An empty chunk says that the next octet is urgent."""
        self.urgent_next = False
        """The next octet that arrives is urgent."""
        self.queued = 0
        self.end_wanted = False
        self.ending = False
        """The piece that the receiver is told now is the last: ``ended_by_peer`` follows at once."""
        self.local_ended = False
        self.remote_ended = False
        self.closed = False
        self.trailers: list[Field] | None = None
        """What we send after our bytes."""
        self.expected = -1
        """Octets of content that the peer announced and did not send yet; -1: any number."""
        self.no_content = False
        """Client: the answer has no content, whatever its content-length (HEAD)."""
        self.tunnel = False
        """Client: after a 2xx answer come the bytes of a tunnel (CONNECT)."""
        self.fault = ""
        """Why we reset the stream: what was wrong with the peer's message."""
        self.answer_seen = False  # client: the answer arrived; server: it was sent
        self.carried = False
        """Whether the peer has sent bytes on it."""
        self.born = 0
        """The tick of the connection in which it was opened."""

    def send(self, data: Chunk) -> bool:
        """Send bytes. False: some of them wait for room, stop the source until ``writable`` is called.

        The bytes are not copied: the caller does not change them. What waits is bounded by the caller's obedience: one
        read of its source. Bytes for a closed or ended stream are dropped.
        """
        output, size = self.output, len(data)
        if self.local_ended or not size:
            return True
        if (
            not self.queue
            and size <= self.send_window
            and size <= output.send_window
            and size <= output.max_frame
            and output.has_room
        ):
            self.send_window -= size
            output.send_window -= size
            output.put_data(self.id, data, size)
            return True
        if self.end_wanted:
            return True
        self.queue.append(data)
        self.queued += size
        self.drain()
        return not self.queue

    def send_urgent(self, data: bytes) -> bool:
        """Send one octet of urgent data, as ``send``; the peer takes it (``Output.takes_urgent``)."""
        if self.local_ended or self.end_wanted:
            return True
        self.queue.append(b"")
        self.queue.append(data)
        self.queued += len(data)
        self.drain()
        return not self.queue

    def send_lent(self, data: memoryview) -> int:
        """Put as many of these bytes out as windows and room allow, in order after what waits; how many. They must be
        taken (``Output.take``) before they change.
        """
        output, at, size = self.output, 0, len(data)
        if self.local_ended or self.end_wanted:
            return size
        while at < size and not self.queue and output.has_room:
            step = min(size - at, self.send_window, output.send_window, output.max_frame)
            if step <= 0:
                break
            self.send_window -= step
            output.send_window -= step
            output.put_data(self.id, data[at : at + step], step)
            at += step
        return at

    def drain(self) -> None:
        """Send what waits as far as windows and room allow, in frames of the agreed size."""
        queue, output = self.queue, self.output
        while queue and output.has_room:
            allowed = min(self.send_window, output.send_window, output.max_frame)
            if allowed <= 0:
                break
            chunk = queue[0]
            size = len(chunk)
            if not size:
                queue.popleft()
                output.put(frames.urgent(self.id))
                continue
            if size > allowed:
                view = memoryview(chunk)
                chunk, queue[0], size = view[:allowed], view[allowed:], allowed
            else:
                queue.popleft()
            self.send_window -= size
            self.queued -= size
            output.send_window -= size
            output.put_data(self.id, chunk, size)
        if queue and self.send_window > 0:
            output.waiting.setdefault(self.id)
        else:  # nothing waits, or it waits for its own window, which drains it
            output.waiting.pop(self.id, None)

    def end(self, trailers: list[Field] | None = None) -> None:
        """Send no more after what waits but the trailers: half-close."""
        if self.local_ended or self.end_wanted:
            return
        self.end_wanted = True
        self.trailers = trailers
        if not self.queue:
            self.send_end()

    def send_end(self) -> None:
        """Put END_STREAM on the wire now; for the table, once the queue is empty."""
        self.local_ended = True
        if self.trailers is None:
            self.output.put_end(self.id)
        else:
            self.output.put_headers(self.id, self.trailers, end=True)
        if self.remote_ended:
            self._gone(self)

    def reset(self, code: int = ErrorCode.CANCEL) -> None:
        """Abort both directions; what waits is dropped. Without effect on a closed stream."""
        if self.closed:
            return
        self.output.put(frames.rst_stream(self.id, code))
        self._gone(self)

    def consumed(self, octets: int, *, keeps_up: bool = True) -> None:
        """The reader took so many of the bytes that ``data`` delivered; the peer is granted more in due course."""
        if self.closed or self.remote_ended:
            return
        increment = self.receive_window.consumed(octets, keeps_up=keeps_up)
        if increment:
            self.output.put(frames.window_update(self.id, increment))
