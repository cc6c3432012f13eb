"""TLS and HTTP/1.1 below the app: passes on the peer's certificate, and bounds the cost of a connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

PEER_KEY = "nodemesh.peer"
"""In the ASGI scope's extensions: ``{"certificate": DER or None, "abort": cut the connection off}``."""
MAX_HEADER_BYTES = 64 * 1024
MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_ANONYMOUS_BODY_BYTES = 64 * 1024
"""From a caller without a certificate: a join request is all that it can want."""
BODY_SECONDS = 30.0
"""For a whole body to arrive."""
FIRST_REQUEST_SECONDS = 30.0
"""From a connection to its first request."""
UNACKNOWLEDGED_MILLISECONDS = 30_000
"""After so long without an acknowledgement the peer counts as gone (TCP_USER_TIMEOUT)."""
KEEPALIVE_IDLE_SECONDS = 30
SEND_BUFFER_BYTES = 256 * 1024
"""In the kernel, for each connection: what a watcher that does not read can hold there."""


def server_context(bundle: str) -> ssl.SSLContext:
    """TLS 1.2 or newer; a client certificate is asked for and, if presented, must be one of ours."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A resumed session would carry a client certificate past its end.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    context.load_verify_locations(cadata=bundle)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


class PeerProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol, with the peer's certificate in the scope of each request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        _watch_peer(transport.get_extra_info("socket"))
        tls = transport.get_extra_info("ssl_object")
        peer = {"certificate": tls.getpeercert(True) if tls is not None else None, "abort": transport.abort}
        self.app = _WithPeer(self.app, peer)
        self.first_request = self.loop.call_later(FIRST_REQUEST_SECONDS, self._abort_if_silent)

    def _abort_if_silent(self) -> None:
        begun: object = self.cycle
        if begun is None:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.first_request.cancel()
        super().connection_lost(exc)


def _watch_peer(sock: Any) -> None:
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MILLISECONDS)


class _WithPeer:
    def __init__(self, app: Any, peer: dict[str, Any]) -> None:
        self._app = app
        self._peer = peer

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scope.setdefault("extensions", {})[PEER_KEY] = self._peer
        await self._app(scope, receive, send)


class BodyLimit:
    """Refuses bodies that are too long (413) or too slow (408)."""

    def __init__(self, app: ASGIApp, limit: int = MAX_BODY_BYTES, seconds: float = BODY_SECONDS) -> None:
        self._app = app
        self._limit = limit
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        peer = scope.get("extensions", {}).get(PEER_KEY, {})
        limit = self._limit if peer.get("certificate") else min(self._limit, MAX_ANONYMOUS_BODY_BYTES)
        deadline = asyncio.get_running_loop().time() + self._seconds
        size, complete = 0, False

        async def bounded() -> Message:
            nonlocal size, complete
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"the body did not arrive within {self._seconds:.0f} seconds") from None
            size += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if size > limit:
                raise HTTPException(413, f"the body is longer than {limit} bytes, the most that this caller may send")
            return message

        await self._app(scope, bounded, send)
