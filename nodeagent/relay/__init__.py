"""Who accepts connections, and what becomes of each: captured ones, tunnels from other nodes, plaintext, ways out.

Nouns: ``decide`` (pure: a connection or a stream to a plan or a refusal), ``Outbound`` (captured connections),
``Inbound`` and ``TunnelServer`` (tunnels from other nodes), ``Plaintext`` (clients outside the mesh), ``ExternalFlow``
(hosts outside the mesh), ``Services`` (what they share), ``Departures`` (connections whose workload left), ``status``
(what is shown of flows and tunnels). Carrying bytes is the affair of ``flows``.
Imports ``net``, ``tunnel``, ``flows``, ``policy``, ``state``, ``telemetry`` and ``capture.origdst``. Imported by
``worker``; ``doctor`` asks ``decide``.
"""
