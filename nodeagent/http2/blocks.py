"""Header blocks of one connection: ours written, the peer's read."""

from __future__ import annotations

from nodeagent.http2.hpack.decoder import BlockDecoder
from nodeagent.http2.hpack.encoder import BlockEncoder
from nodeagent.http2.hpack.field import Field
from nodeagent.http2.limits import ConnectionLimits


class HeaderBlocks:
    """Both directions of the header compression (RFC 7541)."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._encoder = BlockEncoder()
        self._decoder = BlockDecoder(limits.header_list, limits.fields)

    def encode(self, fields: list[Field]) -> bytes:
        """The block of a header list."""
        return self._encoder.encode(fields)

    def peer_table_size(self, size: int) -> None:
        """The peer's header table takes at most so many octets; announced with our next block (RFC 7541, 4.2)."""
        self._encoder.resize(min(size, self._limits.encoder_table))

    def settings_acknowledged(self) -> None:
        """The peer knows the size of table that we announced."""
        self._decoder.allow(self._limits.decoder_table)

    def decode(self, block: bytes) -> tuple[list[Field], str]:
        """The fields of a peer's block, and the bound that they exceed, if any. PeerError: the connection cannot go
        on.
        """
        return self._decoder.decode(block)
