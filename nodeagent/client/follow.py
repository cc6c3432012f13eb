"""Drives the watch: does what ``Session`` says, over a ``Transport``, for as long as the agent lives."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from control.codec.lines import read_line
from control.codec.values import DecodeError
from control.wire.watch import Batch
from nodeagent.client.session import Connect, Session, SessionError, Wait
from nodeagent.client.transport import ControlError, Transport
from nodeagent.slices import in_slices

logger = logging.getLogger(__name__)

Sink = Callable[[Batch], Awaitable[None]]


async def _no_content() -> str:
    return ""


class UnusableBatchError(Exception):
    """The sink cannot apply a batch: what is held is kept, and a snapshot is asked for."""


class Follower:
    """The watch of one agent. ``transport`` gives the present way to control, and waits while there is none.

    ``missing`` tells what the state lacks once a batch is in force; then a snapshot is asked for. ``content`` gives the
    digest of all that is held, by which control resumes.
    """

    def __init__(
        self,
        session: Session,
        transport: Callable[[], Awaitable[Transport]],
        sink: Sink,
        missing: Callable[[], Sequence[str]] = tuple,
        content: Callable[[], Awaitable[str]] = _no_content,
    ) -> None:
        self._session = session
        self._transport = transport
        self._sink = sink
        self._missing = missing
        self._content = content
        self._woken = asyncio.Event()
        self.connected = False
        """Whether the watch is open and has delivered."""

    async def run(self) -> None:
        """Until cancelled. Nothing that control does ends it."""
        while True:
            action = self._session.action(time.monotonic())
            if isinstance(action, Wait):
                await self._pause(action.until - time.monotonic())
            elif isinstance(action, Connect):
                await self._attempt(action)

    def hurry(self) -> None:
        """Try again now: the credential changed."""
        self._session.hurry()
        self._woken.set()

    async def _pause(self, seconds: float) -> None:
        self._woken.clear()
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._woken.wait()
        except TimeoutError:
            pass

    async def _attempt(self, action: Connect) -> None:
        transport = await self._transport()
        was = self._session.last_error
        try:
            await self._stream(transport, action)
            reason = "control closed the watch"
        except (ControlError, SessionError, UnusableBatchError) as error:
            reason = str(error)
        except TimeoutError:
            reason = "control did not answer in time" if not self.connected else "control was silent for too long"
        except Exception as error:  # a defect must not end the watch for good
            logger.exception("the watch failed")
            reason = repr(error)
        if self.connected or reason != was:
            logger.warning("watch of control lost: %s; going on with the state held, retrying", reason)
        self.connected = False
        self._session.lost(reason, time.monotonic())

    async def _stream(self, transport: Transport, action: Connect) -> None:
        content = "" if action.position is None else await self._content()
        async with asyncio.timeout(action.deadline - time.monotonic()) as limit:
            async with transport.watch(action.position, content) as chunks:
                self._session.opened(time.monotonic())
                async for chunk in chunks:
                    limit.reschedule(None)  # applying a large snapshot is not control's silence
                    await self._take(self._session.received(chunk, time.monotonic()))
                    following = self._session.action(time.monotonic())
                    assert not isinstance(following, Wait)
                    limit.reschedule(asyncio.get_running_loop().time() + following.deadline - time.monotonic())

    async def _take(self, lines: list[bytes]) -> None:
        for line in lines:
            batch = await self._read(line)
            self._session.check(batch)
            try:
                await self._sink(batch)
            except UnusableBatchError:
                self._session.refused()
                raise
            self._session.applied(batch)
            if not self.connected:
                logger.info("watch of control open at revision %d", batch.revision)
            self.connected = True
            self._session.verify(self._missing(), time.monotonic())

    async def _read(self, line: bytes) -> Batch:
        try:
            return await in_slices(read_line(line))
        except DecodeError as error:
            raise self._session.refuse(f"control sent a line that is no batch: {error}") from error
