"""The watch: an endless answer of one batch a line. Format: ``control.wire.watch``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, cast

from fastapi import APIRouter, Query, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from control.api.callers import NodeCaller
from control.api.context import Context, Ctx
from control.api.transport import PEER_KEY
from control.watch.session import Session, SlowWatcherError
from control.wire.watch import HEARTBEAT_SECONDS, WATCH_PATH

CHUNK_BYTES = 256 * 1024
MAX_INSTANCE_CHARACTERS = 128
MEDIA_TYPE = "application/x-ndjson"

router = APIRouter(tags=["nodes"])


@router.get(WATCH_PATH, response_class=Response, responses={200: {"content": {MEDIA_TYPE: {}}}})
async def watch(
    request: Request,
    peer: NodeCaller,
    context: Ctx,
    revision: Annotated[int | None, Query(ge=0)] = None,
    instance: Annotated[str | None, Query(max_length=MAX_INSTANCE_CHARACTERS)] = None,
    content: Annotated[str, Query(max_length=MAX_INSTANCE_CHARACTERS)] = "",
) -> Response:
    """A snapshot and then changes, or the changes since ``revision`` of ``instance`` for an agent that holds the
    content of this digest; ends when the node's certificate does."""
    abort = cast(Callable[[], None], request.scope.get("extensions", {}).get(PEER_KEY, {}).get("abort", _nothing))
    session = context.hub.open(peer.name, instance, revision, abort, content)
    return WatchResponse(session, context, peer.expires)


def _nothing() -> None:
    pass


class WatchResponse(Response):
    """Drains a session into the connection until either ends, and always releases it."""

    media_type = MEDIA_TYPE

    def __init__(self, session: Session, context: Context, until: float) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._session = session
        self._context = context
        self._until = until

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with asyncio.TaskGroup() as group:
                gone = group.create_task(_until_gone(receive), name="watch-disconnect")
                stream = group.create_task(self._stream(send), name=f"watch-{self._session.node}")
                await asyncio.wait({gone, stream}, return_when=asyncio.FIRST_COMPLETED)
                gone.cancel()
                stream.cancel()
        finally:
            self._context.hub.release(self._session)

    async def _stream(self, send: Send) -> None:
        while (left := self._until - self._context.clock()) > 0:
            try:
                item = await self._session.next(min(HEARTBEAT_SECONDS, left))
            except SlowWatcherError:
                return
            if item is None and (self._session.closed or self._context.clock() >= self._until):
                break
            revision, line = item or self._context.hub.heartbeat()
            for start in range(0, len(line), CHUNK_BYTES):
                body = line[start : start + CHUNK_BYTES]
                await send({"type": "http.response.body", "body": body, "more_body": True})
            self._context.hub.sent(self._session, revision)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
