"""Discovery objects for agents: derived from resources, sent as a snapshot and then as deltas by revision.

Nouns: ``projection`` (resources -> discovery objects, pure), ``Hub`` (follows the registry's store, fans out),
``Session`` (one watching agent). Knows ``control.store``, ``control.registry``, ``control.kinds`` and ``control.wire``;
imported by ``control.api`` and ``control.main``.
"""
