"""The other end of a tunnel, played by a test: any certificate, any request, and what is answered."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable

from control.wire.address import SocketAddress
from nodeagent.http2.connection import Http2Connection
from nodeagent.http2.headers import Headers, fields_of, headers_of
from nodeagent.http2.hpack.field import Field
from nodeagent.http2.stream import Stream
from nodeagent.http2.table import Role
from tests.support import pki
from tests.support.foreign_tls import ForeignTls

CONNECT: Headers = [(":method", "CONNECT")]


def tls_context(
    leaf: pki.Leaf | None,
    root: pki.Authority,
    *,
    server: bool = False,
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> ssl.SSLContext:
    """A context that checks nothing of ours: the peer decides."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = context.maximum_version = version
    context.load_verify_locations(cadata=root.pem)
    context.set_alpn_protocols(["h2"])
    if leaf is not None:
        descriptor = os.memfd_create("leaf")
        try:
            os.write(descriptor, (leaf.key_pem + leaf.chain_pem).encode())
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
    return context


class Answer:
    """What became of one request."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.headers: Headers | None = None
        self.received = bytearray()
        self.half_closed = False
        self.reset_with: int | None = None
        stream.receiver = self

    @property
    def status(self) -> str:
        return dict(self.headers or []).get(":status", "")

    def interim(self, fields: list[Field]) -> None:
        pass

    def trailers(self, fields: list[Field]) -> None:
        pass

    def answered(self, fields: list[Field]) -> None:
        self.headers = headers_of(fields)

    def data(self, piece: bytes) -> None:
        self.received += piece
        self.stream.consumed(len(piece))

    def ended_by_peer(self) -> None:
        self.half_closed = True

    def reset(self, code: int) -> None:
        self.reset_with = code

    def writable(self) -> None:
        pass


class Peer:
    """A client of tunnels. ``connect``, then ``request``; what is read is read within these calls."""

    def __init__(self, context: ssl.SSLContext, sni: str | None) -> None:
        self.loop = asyncio.get_running_loop()
        self.tls = ForeignTls(context, name=sni)
        self.connection = Http2Connection(Role.CLIENT, self)
        self.socket: socket.socket | None = None
        self.farewells: list[tuple[int, str]] = []
        self.pongs = 0
        self.is_settled = False

    async def connect(self, address: SocketAddress) -> None:
        """Connect and shake hands; ends when the server has spoken HTTP/2. Raises what the refusal is."""
        self.socket = socket.socket(socket.AF_INET6 if address.family == 6 else socket.AF_INET)
        self.socket.setblocking(False)
        await self.loop.sock_connect(self.socket, tuple(address))
        self.tls.handshake()
        await self.until(lambda: self.is_settled)

    async def request(self, authority: str, *more: tuple[str, str]) -> Answer:
        """Ask; the answer (or the reset) has come when this returns."""
        answer = Answer(self.connection.open_stream(fields_of([*CONNECT, (":authority", authority), *more])))
        await self.until(lambda: answer.headers is not None or answer.reset_with is not None)
        return answer

    async def until(self, condition: Callable[[], object]) -> None:
        """Write what there is to write, and read until the condition holds."""
        assert self.socket is not None
        while True:
            await self.flush()
            if condition():
                return
            data = await self.loop.sock_recv(self.socket, 1 << 18)
            if not data:
                raise ConnectionError("the end of the connection")
            self.tls.feed(data)
            if piece := self.tls.read():
                self.connection.receive(piece)
            if self.tls.ended:
                if condition():  # by what was said before
                    return
                raise ssl.SSLZeroReturnError("the peer closed the TLS connection")

    async def flush(self) -> None:
        """Write what there is to write."""
        assert self.socket is not None
        if self.tls.established and (output := self.connection.take_parts()):
            self.tls.write(b"".join(output))
        if ciphertext := self.tls.take_output():
            await self.loop.sock_sendall(self.socket, ciphertext)

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()

    # --- of the connection ---

    def output_ready(self) -> None:
        pass

    def stream_opened(self, stream: Stream, fields: list[Field], *, ended: bool) -> None:
        raise AssertionError("a server opens no streams")

    def request_refused(self, why: str) -> None:
        raise AssertionError("a server asks for nothing")

    def settled(self) -> None:
        self.is_settled = True

    def draining(self, code: int, text: str) -> None:
        self.farewells.append((code, text))

    def pong(self) -> None:
        self.pongs += 1

    def stream_closed(self, stream: Stream) -> None:
        pass
