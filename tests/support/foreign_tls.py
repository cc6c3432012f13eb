"""TLS between two memory buffers by the standard library: an end that is not ours, on another OpenSSL."""

from __future__ import annotations

import ssl

RECORD = 16 * 1024


class ForeignTls:
    """One TLS connection of Python's ``ssl``; errors are its own."""

    def __init__(self, context: ssl.SSLContext, *, server_side: bool = False, name: str | None = None) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side, server_hostname=name)
        self.established = False
        self.ended = False
        """The peer said close_notify."""

    def handshake(self) -> None:
        try:
            self.object.do_handshake()
        except ssl.SSLWantReadError:
            return
        self.established = True

    def feed(self, data: bytes) -> None:
        self._incoming.write(data)
        if not self.established:
            self.handshake()

    def read(self) -> bytes:
        """The plaintext that is complete."""
        got = bytearray()
        while self.established and not self.ended:
            try:
                record = self.object.read(RECORD)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                record = b""
            self.ended = not record
            got += record
        return bytes(got)

    def write(self, data: bytes) -> None:
        self.object.write(data)

    def take_output(self) -> bytes:
        return self._outgoing.read()
