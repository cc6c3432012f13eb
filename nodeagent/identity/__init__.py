"""Identities of workloads, proved by X.509-SVIDs: keys, renewal, TLS contexts, and the checks of a
peer's certificate.

Nouns: ``PeerIdentity`` (spiffe: what a peer's certificate proves), ``SvidMaterial`` (keys: a key
and the chain that names it), ``Rotation`` (rotation: when to renew; a pure table), contexts
(tlsctx: TLS 1.3, both sides), ``SvidStore`` and the read-only ``Certificates`` (store), ``openssl``
(the functions of OpenSSL that pyOpenSSL does not offer).

It neither speaks to a CA nor reads files: ``client`` does. ``spiffe`` and ``rotation`` are pure.
Imported by ``client``, ``flows``, ``manager``, ``relay``, ``report``, ``tunnel``, ``worker``.
"""
