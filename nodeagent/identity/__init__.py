"""Who the workloads are, proved by X.509-SVIDs: keys, renewal, TLS contexts, and the checks on a peer's certificate.

Nouns: ``PeerIdentity`` (spiffe: what a peer's leaf proves), ``SvidMaterial`` (keys: a key and the chain that names it),
``Rotation`` (rotation: when to renew, a pure table), contexts (tlsctx: TLS 1.3, both sides), ``SvidStore`` and the
read-only ``Certificates`` that the relay is handed (store). No CA client, no files: those are client's.
Imported by client, relay, manager, worker; imports ``control.wire``. ``spiffe`` and ``rotation`` are pure.
"""
