"""HPACK: header compression of one HTTP/2 connection (RFC 7541), both directions.

Nouns: ``Field`` (field: a header field with everything that is found out about it once: kind, validity, whether it may
be indexed, its literal octets), ``static`` (the static table), ``DynamicTable`` (table), ``BlockDecoder``
(decoder), ``BlockEncoder`` (encoder), ``huffman`` (the string coding), ``octets`` (integers and literals).

A field that comes again by index is the same object, so nothing about it is computed again, neither on the connection
that it came from nor on the one that it is forwarded to.
Bounds: a block that breaks the coding ends its connection (``PeerError`` with COMPRESSION_ERROR), because the tables
of both ends would differ from then on. A header list over a bound fails its stream only: it is decoded to its end, so
the table stays in step, but no more of it is kept.
"""
