"""TLS over bytes: a connection of OpenSSL's between memory buffers. No sockets; whoever owns it moves the ciphertext.

What it costs is copies and calls, so: ciphertext is read where it lies, plaintext and ciphertext come out in buffers
that all sessions of a worker share, in steps that stay in the processor's cache, and OpenSSL is asked for no record
that cannot be there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from OpenSSL import SSL

from nodeagent.http2.frames import Chunk
from nodeagent.identity.openssl import TlsError, failure, ffi, handle, lib

LARGE_PART: Final = 8 * 1024
"""From this size on a copy costs more than a record of its own for what stands before it."""
LARGE_READ: Final = 16 * 1024
"""From this size on ciphertext is read where it lies, and plaintext is lent instead of copied."""
MAX_RECORD: Final = 16 * 1024
"""Octets of plaintext in a record (RFC 8446, section 5.1)."""
PLAINTEXT_BUFFER: Final = 272 * 1024
"""Room for all that a read of 256 KiB can hold, so that it comes in one piece."""
STEP: Final = 256 * 1024
"""Octets that are encrypted before their ciphertext is taken."""
CIPHERTEXT_BUFFER: Final = STEP + 8 * 1024
"""A step with what its records add, 22 octets each. What does not fit comes as a further piece."""


class TlsBuffers:
    """Where plaintext and ciphertext are put together. Many sessions may share them: between calls they are empty."""

    __slots__ = ("ciphertext", "ciphertext_at", "plaintext", "plaintext_at")

    def __init__(self) -> None:
        self.plaintext = memoryview(bytearray(PLAINTEXT_BUFFER))
        self.ciphertext = memoryview(bytearray(CIPHERTEXT_BUFFER))
        self.plaintext_at: Any = ffi.from_buffer(self.plaintext)
        self.ciphertext_at: Any = ffi.from_buffer(self.ciphertext)


class TlsSession:
    """One TLS connection. ``established`` turns true when our side of the handshake is done."""

    def __init__(self, connection: SSL.Connection, *, server_side: bool, buffers: TlsBuffers | None = None) -> None:
        """``connection`` is new, and without a socket."""
        self.object = connection
        self.established = False
        self._buffers = TlsBuffers() if buffers is None else buffers
        self._ssl = handle(connection)
        lib.SSL_clear_mode(self._ssl, lib.SSL_MODE_ENABLE_PARTIAL_WRITE)  # between memory buffers everything fits
        if server_side:
            connection.set_accept_state()
        else:
            connection.set_connect_state()
        # OpenSSL owns both, and frees a source when it is given another
        self._source = lib.BIO_new(lib.BIO_s_mem())
        self._sink = lib.BIO_new(lib.BIO_s_mem())
        lib.SSL_set_bio(self._ssl, self._source, self._sink)
        self._source_grows = True
        self._source_data: Any = None  # what a source that does not grow reads from
        self._sink_grew = False

    def handshake(self) -> None:
        """Go on with the handshake as far as the bytes allow. Raises TlsError where the peer will not do."""
        lib.ERR_clear_error()
        result = lib.SSL_do_handshake(self._ssl)
        if result == 1:
            self.established = True
            return
        reason = failure(self._ssl, result)
        if reason is not None:
            raise reason

    def feed(self, data: Chunk) -> None:
        """Take ciphertext, and go on with the handshake if it is not done. Raises TlsError where the peer will not do.

        A large ``memoryview`` is not copied: run ``pieces`` to its end before it changes.
        """
        size = len(data)
        if size >= LARGE_READ and self.established and not self._unread():
            self._read_from(data, size)
        else:
            self._append(data, size)
        if not self.established:
            self.handshake()

    def _unread(self) -> int:
        """Octets of ciphertext that OpenSSL has not looked at."""
        return int(lib.BIO_get_mem_data(self._source, ffi.NULL))

    def _read_from(self, data: Chunk, size: int) -> None:
        self._source_data = ffi.from_buffer(data)
        self._source = lib.BIO_new_mem_buf(self._source_data, size)
        lib.BIO_set_mem_eof_return(self._source, -1)  # its end is not the end of the connection
        lib.SSL_set_bio(self._ssl, self._source, self._sink)
        self._source_grows = False

    def _append(self, data: Chunk, size: int) -> None:
        if not self._source_grows:
            if self._unread():
                raise TlsError("ciphertext was left unread")
            self._source = lib.BIO_new(lib.BIO_s_mem())
            lib.SSL_set_bio(self._ssl, self._source, self._sink)
            self._source_grows, self._source_data = True, None
        if size:
            lib.BIO_write(self._source, data if type(data) is bytes else ffi.from_buffer(data), size)

    def pieces(self) -> Iterator[Chunk]:
        """The plaintext that is complete; each piece is given out before anything after it is looked at.

        A piece holds as many records as there are, up to the buffer: what reads it pays once, not per record. A
        ``memoryview`` is lent until the next piece is asked for.
        Raises, after the pieces before it, TlsError on what is not TLS, and TlsClosedError on an orderly end.
        """
        more = self.established
        while more:
            filled, more, reason = self._read_records()
            if filled >= LARGE_READ:
                yield self._buffers.plaintext[:filled]
            elif filled:
                yield bytes(self._buffers.plaintext[:filled])
            if reason is not None:
                raise reason

    def _read_records(self) -> tuple[int, bool, Exception | None]:
        """Fill the buffer with whole records: how far, whether for want of room, and what came instead of one."""
        ssl, read, target = self._ssl, lib.SSL_read, self._buffers.plaintext_at
        filled, most = 0, PLAINTEXT_BUFFER - MAX_RECORD
        lib.ERR_clear_error()
        while filled <= most:
            count = read(ssl, target + filled, MAX_RECORD)
            if count <= 0:
                return filled, False, failure(ssl, count)
            filled += count
            if count < MAX_RECORD and not lib.BIO_get_mem_data(self._source, ffi.NULL):
                return filled, False, None
        return filled, True, None

    def send(self, parts: Sequence[Chunk], write: Callable[[memoryview], None]) -> None:
        """Encrypt the parts, in order. ``write`` gets the ciphertext piece by piece, each lent for the call.

        Small parts share records; large ones are not copied together first.
        """
        small: list[Chunk] = []
        for part in parts:
            if len(part) < LARGE_PART:
                small.append(part)
                continue
            if small:
                self._encrypt(b"".join(small))
                small.clear()
            view, self._sink_grew = memoryview(part), True
            for at in range(0, len(view), STEP):
                self._encrypt(view[at : at + STEP])
                self.give_output(write)
        if small:
            self._encrypt(b"".join(small))
            self.give_output(write)

    def _encrypt(self, data: Chunk) -> None:
        size = len(data)
        written = lib.SSL_write(self._ssl, data if type(data) is bytes else ffi.from_buffer(data), size)
        if written != size:
            raise failure(self._ssl, written) or TlsError("OpenSSL took a part of a write only")

    def give_output(self, write: Callable[[memoryview], None]) -> None:
        """What OpenSSL has to say; ``write`` as in ``send``."""
        buffers = self._buffers
        while True:
            size = lib.BIO_read(self._sink, buffers.ciphertext_at, CIPHERTEXT_BUFFER)
            if size <= 0:
                return
            write(buffers.ciphertext[:size])
            if size < CIPHERTEXT_BUFFER:
                return

    def take_output(self) -> bytes:
        """The ciphertext to be written now; empty if there is none."""
        taken: list[bytes] = []
        self.give_output(lambda piece: taken.append(bytes(piece)))
        return b"".join(taken)

    def shrink(self) -> None:
        """Give back what a bulk transfer made of the buffers."""
        if self._sink_grew and not lib.BIO_get_mem_data(self._sink, ffi.NULL):
            self._sink_grew = False
            self._sink = lib.BIO_new(lib.BIO_s_mem())
            lib.SSL_set_bio(self._ssl, self._source, self._sink)

    def close(self) -> None:
        """Say close_notify, without waiting for the peer's."""
        lib.ERR_clear_error()
        lib.SSL_shutdown(self._ssl)  # where the connection is broken already there is nothing more to say
        lib.ERR_clear_error()
