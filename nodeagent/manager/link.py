"""The manager's end of the socket to one worker."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import cast

from nodeagent.channel import ChannelError, Load, Message, NamespaceState, Unpacker, pack
from nodeagent.slices import Slices
from nodeagent.telemetry.samples import SampleError

MAX_BACKLOG_BYTES = 256 * 1024 * 1024
"""What a worker may leave unread; one that does not keep up is ended, and starts again from a snapshot."""

logger = logging.getLogger(__name__)


class WorkerLink(asyncio.Protocol):
    """Messages to and from one worker process; loses itself on any error, which ends the worker."""

    def __init__(self, index: int, on_message: Callable[[WorkerLink, Message], None]) -> None:
        self.index = index
        self.ready = False
        """Whether the worker accepts connections."""
        self.pid = 0
        self.heard = -1
        """The edition of the enrolment that the worker judges by."""
        self.revision = 0
        """The revision that the worker decides by."""
        self.rejected: tuple[str, ...] = ()
        self.inside: tuple[NamespaceState, ...] = ()
        """What it made of the network namespaces that it was told of."""
        self.load: Load | None = None
        """What it last said of how busy it is."""
        self.spoke = time.monotonic()
        """When it last said something; at first, when it was started."""
        self.lost = asyncio.Event()
        self._on_message = on_message
        self._unpacker = Unpacker()
        self._ignored = 0
        self._transport: asyncio.Transport | None = None
        self._slices: Slices | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the socket is ours."""
        self._transport = cast(asyncio.Transport, transport)
        self._slices = Slices(asyncio.get_running_loop().call_soon)

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes from the worker."""
        self.spoke = time.monotonic()
        try:
            for message in self._unpacker.feed(data):
                self._on_message(self, message)
        except (ChannelError, SampleError) as error:
            logger.error("worker %d sent what is no message and is ended: %s", self.index, error)
            self.abort()
        if self._unpacker.ignored.total() > self._ignored:
            self._ignored = self._unpacker.ignored.total()
            logger.warning("worker %d sent messages that are ignored: %s", self.index, dict(self._unpacker.ignored))

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the worker is gone, or is to go."""
        self.ready = False
        self.lost.set()

    def send(self, message: Message) -> None:
        """Send a message; dropped if the worker is gone."""
        self.send_packed(pack(message))

    def send_packed(self, data: bytes) -> None:
        """Send a message that ``pack`` made, for several workers, once."""
        self.send_all((data,))

    def send_all(self, messages: Iterable[bytes]) -> None:
        """Send packed messages, in slices where they are many. What is sent later arrives later."""
        if self._slices is not None:
            self._slices.put(self._sending(messages))

    def _sending(self, messages: Iterable[bytes]) -> Iterator[None]:
        for data in messages:
            self._write(data)
            yield

    def _write(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if transport.get_write_buffer_size() + len(data) > MAX_BACKLOG_BYTES:
            logger.error("worker %d does not read what it is sent and is ended", self.index)
            self.abort()
            return
        transport.write(data)

    def abort(self) -> None:
        """Close the socket: the worker ends itself when it sees that, and the supervisor ends it if it does not."""
        if self._transport is not None:
            self._transport.abort()
