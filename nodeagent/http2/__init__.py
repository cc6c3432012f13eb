"""HTTP/2 without sockets: one connection in either role, any method, over bytes that the caller
moves.

Nouns: ``frames`` (the octets), ``windows`` (flow control), ``headers`` (header blocks), ``Stream``
(stream), ``TunnelConnection`` (connection: one connection), ``limits``. Bytes enter through
``receive`` and leave through ``take_parts``; a ``Listener`` is told what happened.
Pure: no clock, no sockets, no logging. A peer's mistake is a ``PeerError``; ours is a
``LocalError``.
Imported by ``flows``, ``relay``, ``tunnel``, ``worker``.
"""
