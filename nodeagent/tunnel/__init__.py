"""Tunnels between agents (HBONE): HTTP/2 CONNECT streams over mutual TLS, and the pool that reuses
them.

Nouns: ``ConnectRequest`` (request: what a stream asks for, and its headers; pure), ``TlsSession``
(tls: TLS over memory buffers), ``TunnelEnd`` (end: socket, TLS and HTTP/2 of one tunnel, either
role), ``Pool`` and ``TunnelClient`` (pool: tunnels to other nodes), ``codes`` (what agents tell
each other about a stream).

Methods other than CONNECT are refused here, not in ``http2``.
Source: HBONE as istio/ztunnel speaks it; RFC 9110, section 9.3.6 (CONNECT).
Imported by ``flows``, ``relay``, ``worker``.
"""
