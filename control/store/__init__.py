"""Bytes under keys at revisions: etcd's semantics behind one protocol, and nothing about meshes.

Nouns: ``Store``, ``KeyValue``, ``Commit`` / ``Event``, ``Watch``, ``Lease``, the errors ``Conflict`` and
``Compacted`` (base); ``MemoryStore`` (memory), ``SqliteStore`` (sqlite). Imported by ``control.registry``,
``control.watch`` and ``control.main``.
"""
