"""TLS over bytes: an SSLObject between two memory buffers. No sockets; whoever owns it moves the ciphertext.

Plaintext in and out in as few calls into OpenSSL as the records allow; reading never asks OpenSSL for what is not there
(an SSLWantReadError costs more than a small record).
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from typing import Final

from nodeagent.relay.protocol.frames import Chunk

LARGE_PART: Final = 8 * 1024
"""From this size on a copy costs more than a record of its own for what stands before it."""
READ_SIZE: Final = 64 * 1024
"""Asked of OpenSSL at once; a record carries at most 16 KiB."""


class TlsClosedError(Exception):
    """The peer ended the TLS connection (close_notify)."""


class TlsSession:
    """One TLS connection. ``established`` turns true when our side of the handshake is done."""

    def __init__(self, context: ssl.SSLContext, *, server_side: bool, server_hostname: str | None = None) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.object = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )
        self.established = False

    def handshake(self) -> None:
        """Go on with the handshake as far as the bytes allow. Raises ssl.SSLError where the peer will not do."""
        try:
            self.object.do_handshake()
        except ssl.SSLWantReadError:
            return
        self.established = True

    def feed(self, data: Chunk) -> None:
        """Take ciphertext, and go on with the handshake if it is not done. Raises ssl.SSLError where the peer will
        not do.
        """
        self._incoming.write(data)
        if not self.established:
            self.handshake()

    def pieces(self) -> Iterator[bytes]:
        """The plaintext that is complete, in pieces of at most one record; each is given out before the next is
        looked at.

        Raises, after the pieces before it, ssl.SSLError on what is not TLS, and TlsClosedError on an orderly end.
        """
        incoming, tls = self._incoming, self.object
        try:
            while self.established and (incoming.pending or tls.pending()):
                piece = tls.read(READ_SIZE)
                if not piece:
                    raise TlsClosedError("the peer closed the TLS connection")
                yield piece
        except ssl.SSLWantReadError:
            return
        except ssl.SSLZeroReturnError as error:
            raise TlsClosedError("the peer closed the TLS connection") from error

    def send(self, parts: Sequence[Chunk]) -> None:
        """Encrypt the parts, in order; the ciphertext is part of the next ``take_output``.

        Small parts share records; large ones are not copied together first.
        """
        write = self.object.write
        small: list[Chunk] = []
        for part in parts:
            if len(part) < LARGE_PART:
                small.append(part)
                continue
            if small:
                write(b"".join(small))
                small.clear()
            write(part)
        if small:
            write(b"".join(small))

    def close(self) -> None:
        """Say close_notify, without waiting for the peer's."""
        try:
            self.object.unwrap()
        except ssl.SSLError:
            return  # the peer's half is still open (WANT_READ), or the connection is broken: nothing more to say

    def take_output(self) -> bytes:
        """The ciphertext to be written now; empty if there is none."""
        return self._outgoing.read()

    def peer_certificate(self) -> bytes:
        """The peer's leaf, DER; empty if it showed none."""
        return self.object.getpeercert(binary_form=True) or b""
