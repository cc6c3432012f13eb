"""Servers and clients of the stories: threads of the test over sockets that were opened inside."""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType

from tests.support.pace import patient

Handler = Callable[[socket.socket], None]
CHUNK = 256 * 1024
INLINE_BYTES = 16 * 1024
"""So much fits into socket buffers: it is sent before anything is read, without a thread."""


class Server:
    """Accepts on a listener and runs the handler for each connection in a thread. A context manager."""

    def __init__(self, listener: socket.socket, handler: Handler) -> None:
        self.listener = listener
        self.connections: list[socket.socket] = []
        self.errors: list[BaseException] = []
        self._handler = handler
        self._threads: list[threading.Thread] = []
        self._closing = False
        self._acceptor = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Server:
        self.listener.settimeout(None)
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._acceptor.join(5)
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for connection in self.connections:
            connection.close()

    def _accept(self) -> None:
        while not self._closing:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            connection.settimeout(patient(20))
            self.connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            self._handler(connection)
        except OSError as error:
            self.errors.append(error)


def echo(connection: socket.socket) -> None:
    """Send everything back; end when the peer ends."""
    while data := connection.recv(CHUNK):
        connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


def http_hello(connection: socket.socket) -> None:
    """A keep-alive HTTP/1.1 server: answers every request with its own request line in the body."""
    with connection.makefile("rb") as stream:
        while line := stream.readline():
            while stream.readline() not in (b"\r\n", b""):
                pass
            body = b"you asked: " + line.strip()
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def greeter(connection: socket.socket) -> None:
    """A server-first protocol: speaks before it is spoken to."""
    connection.sendall(b"220 ready\r\n")
    connection.recv(CHUNK)


def reset(connection: socket.socket) -> None:
    """Close with a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def reset_after_first_bytes(connection: socket.socket) -> None:
    """Read once, answer something, then reset."""
    connection.recv(CHUNK)
    reset(connection)


def read_all(connection: socket.socket) -> bytes:
    """Until the peer ends in order; a reset raises."""
    data = bytearray()
    while chunk := connection.recv(CHUNK):
        data += chunk
    return bytes(data)


def read_exactly(connection: socket.socket, count: int) -> bytes:
    """That many bytes; EOFError if the peer ends before."""
    data = bytearray()
    while len(data) < count:
        chunk = connection.recv(min(CHUNK, count - len(data)))
        if not chunk:
            raise EOFError(f"ended after {len(data)} of {count} bytes")
        data += chunk
    return bytes(data)


def http_get(connection: socket.socket, path: str) -> tuple[int, bytes]:
    """One request on an open connection, which stays open."""
    client = http.client.HTTPConnection("mesh")
    client.sock = connection
    client.request("GET", path)
    answer = client.getresponse()
    return answer.status, answer.read()


def roundtrip(connection: socket.socket, data: bytes) -> bytes:
    """Send everything while reading the same amount back. A reset is raised, whichever direction learns of it."""
    if len(data) <= INLINE_BYTES:
        connection.sendall(data)
        return read_exactly(connection, len(data))
    failed: list[BaseException] = []

    def send() -> None:
        try:
            connection.sendall(data)
        except OSError as error:
            failed.append(error)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        return read_exactly(connection, len(data))
    except EOFError:
        sender.join(20)
        if failed:  # the kernel tells of a reset once: here the sender was told
            raise failed[0] from None
        raise
    finally:
        sender.join(20)
