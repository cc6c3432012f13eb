"""TLS over bytes: an SSLObject between two memory buffers. No sockets; whoever owns it moves the ciphertext.

Plaintext in and out in as few calls into OpenSSL as the records allow; reading never asks OpenSSL for what is not there
(an SSLWantReadError costs more than a small record).
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from typing import Final, cast

from nodeagent.relay.protocol.frames import Chunk

LARGE_PART: Final = 8 * 1024
"""From this size on a copy costs more than a record of its own for what stands before it."""
MAX_RECORD: Final = 16 * 1024
"""Octets of plaintext in a record (RFC 8446, section 5.1)."""
PLAINTEXT_BUFFER: Final = 256 * 1024


class TlsClosedError(Exception):
    """The peer ended the TLS connection (close_notify)."""


class TlsSession:
    """One TLS connection. ``established`` turns true when our side of the handshake is done."""

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_hostname: str | None = None,
        buffer: memoryview | None = None,
    ) -> None:
        """``buffer`` is where plaintext is put together; many sessions may share one, it is empty between calls."""
        self._buffer = memoryview(bytearray(PLAINTEXT_BUFFER)) if buffer is None else buffer
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
        """The plaintext that is complete; each piece is given out before anything after it is looked at.

        A piece holds as many records as there are, up to the buffer: what reads it pays once, not per record.
        Raises, after the pieces before it, ssl.SSLError on what is not TLS, and TlsClosedError on an orderly end.
        """
        more = self.established
        while more:
            filled, more, failure = self._read_records()
            if filled:
                yield bytes(self._buffer[:filled])
            if failure is not None:
                raise failure

    def _read_records(self) -> tuple[int, bool, Exception | None]:
        """Fill the buffer with whole records: how far, whether for want of room, and what came instead of one."""
        incoming, tls, buffer = self._incoming, self.object, self._buffer
        filled, most = 0, len(buffer) - MAX_RECORD
        try:
            while incoming.pending or tls.pending():
                if filled > most:
                    return filled, True, None
                count = cast(
                    int, tls.read(MAX_RECORD, buffer[filled:])
                )  # typeshed knows the form without a buffer only
                if not count:
                    return filled, False, TlsClosedError("the peer closed the TLS connection")
                filled += count
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            return filled, False, TlsClosedError("the peer closed the TLS connection")
        except ssl.SSLError as error:
            return filled, False, error
        return filled, False, None

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
