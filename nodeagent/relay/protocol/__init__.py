"""HBONE without sockets: HTTP/2 CONNECT streams over bytes that somebody else moves.

Nouns: ``frames`` (the octets), ``windows`` (who may send how much), ``TunnelConnection`` (one connection, either role),
``ConnectRequest`` (what a stream asks for). Bytes in through ``receive``, bytes out through ``take_output``, news
through a ``Listener``.
Pure: no clock, no sockets, no logging. A peer's mistake is a ``PeerError``; ours is a ``LocalError``.
"""
