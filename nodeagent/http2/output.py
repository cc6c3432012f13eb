"""Frames that wait for the next write, and the room that there is for DATA."""

from __future__ import annotations

from collections.abc import Callable

from nodeagent.http2 import frames
from nodeagent.http2.blocks import HeaderBlocks
from nodeagent.http2.frames import Chunk
from nodeagent.http2.hpack.field import Field
from nodeagent.http2.limits import MAX_OUTPUT


class Output:
    """The writing half of a connection. It knows no streams but by number.

    ``ready`` is called once when there is something, until it is taken; taking must not happen within that call.
    """

    def __init__(self, ready: Callable[[], None], blocks: HeaderBlocks) -> None:
        self._ready = ready
        self._blocks = blocks
        self.send_window = 65_535
        """Octets of DATA that the peer grants on the whole connection."""
        self.max_frame = frames.DEFAULT_MAX_FRAME
        self.takes_urgent: bool | None = None
        """Whether the peer takes URGENT frames; None: its settings have not come."""
        self.has_room = True
        """Whether DATA may be put now; if not, it waits in its stream."""
        self.batches = 0
        """How often the output was taken."""
        self.control_waiting = 0
        """Control frames that wait for the next write."""
        self.waiting: dict[int, None] = {}
        """Streams that could send but for the connection, in the order of their turn."""
        self._congested = False
        self._parts: list[Chunk] = []
        self._size = 0
        self._last_data = 0
        """The stream whose DATA frame is the last in the output; 0: something else is."""

    def put(self, frame: bytes) -> None:
        """Queue a control frame for the next write."""
        self.control_waiting += 1
        self._last_data = 0
        self._parts.append(frame)
        if len(self._parts) == 1:
            self._ready()

    def put_headers(self, stream_id: int, fields: list[Field], *, end: bool = False) -> None:
        """Queue a header list; it is compressed now, so it leaves in the order of these calls."""
        self.put(frames.headers(stream_id, self._blocks.encode(fields), end_stream=end, max_frame=self.max_frame))

    def put_data(self, stream_id: int, data: Chunk, size: int) -> None:
        """Queue a DATA frame whose windows were paid by the caller."""
        parts = self._parts
        parts.append(frames.header(size, frames.DATA, 0, stream_id))
        parts.append(data)
        self._last_data = stream_id
        self._size += size
        if self._size >= MAX_OUTPUT:
            self.has_room = False
        if len(parts) == 2:
            self._ready()

    def put_end(self, stream_id: int) -> None:
        """Queue the end of a stream: on its last DATA frame if that is the last in the queue, else on an empty one."""
        if self._last_data == stream_id:
            self._parts[-2] = frames.header(len(self._parts[-1]), frames.DATA, frames.END_STREAM, stream_id)
            self._last_data = 0
        else:
            self.put(frames.header(0, frames.DATA, frames.END_STREAM, stream_id))

    def take(self) -> list[Chunk]:
        """Everything to be written now, in order: headers, contents, control frames; empty if there is nothing."""
        parts, self._parts = self._parts, []
        self.batches += 1
        self._last_data = self._size = self.control_waiting = 0
        self.has_room = not self._congested
        return parts

    def keep(self) -> None:
        """Copy what was lent and not taken: its owner is going to change it."""
        self._parts = [bytes(part) if type(part) is memoryview else part for part in self._parts]

    def congested(self, yes: bool) -> None:
        """The transport below is full, or no longer: while it is, DATA waits in its stream and control frames here."""
        self._congested = yes
        self.has_room = not yes and self._size < MAX_OUTPUT
