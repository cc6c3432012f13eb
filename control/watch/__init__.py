"""What agents are told: discovery objects derived from resources, as a snapshot and then deltas by revision.

Nouns: ``projection`` (resources -> discovery objects, pure), ``Hub`` (follows the registry's store, fans out),
``Session`` (one watching agent). Knows ``control.store``, ``control.registry`` and ``control.wire``; imported by
``control.api`` and ``control.main``.
"""
