"""Header blocks of one connection: ours written, the peer's read."""

from __future__ import annotations

import hpack
from hpack.exceptions import HPACKError, OversizedHeaderListError

from nodeagent.http2 import headers as plain
from nodeagent.http2.errors import ErrorCode, PeerError
from nodeagent.http2.limits import ENCODER_TABLE, MAX_HEADER_LIST
from nodeagent.http2.stream import Headers


class HeaderBlocks:
    """Both directions of the header compression (RFC 7541)."""

    def __init__(self) -> None:
        self._encoder = hpack.Encoder()
        self._decoder = hpack.Decoder(max_header_list_size=MAX_HEADER_LIST)
        self._table_sizes: tuple[int, int] | None = None  # smallest and last that the peer set since we encoded

    def encode(self, headers: Headers) -> bytes:
        """The block of a header list."""
        if self._table_sizes is None:
            return plain.encode(headers)
        for size in self._table_sizes:
            if size != self._encoder.header_table_size:  # the encoder would forget to announce a change set twice
                self._encoder.header_table_size = size
        self._table_sizes = None
        block: bytes = self._encoder.encode(headers, huffman=False)
        return block

    def peer_table_size(self, size: int) -> None:
        """The peer's header table takes at most so many octets; announced with our next block (RFC 7541, 4.2)."""
        size = min(size, ENCODER_TABLE)
        self._table_sizes = (min(size, self._table_sizes[0]) if self._table_sizes else size, size)

    def decode(self, block: bytes) -> Headers:
        """The header list of a peer's block. PeerError: the connection cannot go on."""
        read = plain.decode(block, MAX_HEADER_LIST)
        if read is not None:
            return read
        try:
            fields = self._decoder.decode(block, raw=True)
        except OversizedHeaderListError as error:
            raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, f"a header list over {MAX_HEADER_LIST} octets") from error
        except HPACKError as error:
            raise PeerError(ErrorCode.COMPRESSION_ERROR, f"header block: {type(error).__name__}") from error
        # A value that is no UTF-8 is its stream's affair, not the connection's.
        return [(name.decode("utf-8", "replace"), value.decode("utf-8", "replace")) for name, value in fields]
