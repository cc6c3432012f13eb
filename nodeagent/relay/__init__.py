"""How connections are carried: the tunnel protocol, and the sockets at its ends.

Nouns: ``TunnelConnection`` (one HBONE connection, sans-io), ``Leg`` (one end of a flow: an application's socket or a
tunnel's stream), ``Flow`` (two legs and their record), ``Tunnel`` (a TLS connection between agents), ``Pool``
(tunnels for reuse).
``protocol`` does no I/O; ``decide`` is pure; ``io`` owns the sockets, and only ``io.sockets`` makes them.
May import: ``state``, ``policy``, ``identity`` (certificates, SPIFFE checks), ``telemetry``, ``capture.origdst``.
Imported by ``worker``.
"""
