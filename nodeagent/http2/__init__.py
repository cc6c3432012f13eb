"""HTTP/2 without sockets: one connection in either role, any method, over bytes that the caller
moves.

Nouns: ``Http2Connection`` (connection: one connection), ``Stream`` (stream), ``StreamTable``
(table: its streams), ``Output`` (output: what waits to be written), ``HeaderBlocks`` (blocks:
header compression), ``hpack`` (its coding and the ``Field`` that header lists are made of),
``ControlFrames`` (control: every frame but DATA), ``frames`` (the octets), ``windows`` (flow
control), ``headers`` (header lists as text), ``MessageHead`` (message:
what a request, a response and trailers must be), ``content`` (the same on a stream),
``ConnectionLimits`` (limits).

Bytes enter through ``receive`` and leave through ``take_parts``; a ``ConnectionOwner`` is told what
happened.
Pure: no clock, no sockets, no logging. A peer's mistake is a ``PeerError``; ours is a
``LocalError``.
Imported by ``flows``, ``relay``, ``tunnel``, ``worker``.
"""
