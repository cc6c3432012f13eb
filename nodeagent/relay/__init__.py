"""Who accepts connections, and what becomes of each: captured ones, tunnels from other nodes,
plaintext.

Nouns: ``decide`` (pure: a connection or a stream to a plan or a refusal), ``Outbound`` (outbound:
captured connections), ``Inbound`` and ``TunnelServer`` (inbound: tunnels from other nodes),
``Plaintext`` (plaintext: clients outside the mesh), ``OrphanReaper`` (departures: connections whose
workload left), ``status`` (what is shown of flows and tunnels).

``flows.reach`` dials what was decided, and ``flows`` carries the bytes.
Imported by ``doctor``, ``worker``.
"""
