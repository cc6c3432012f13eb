"""The resource kinds: one file a kind, which says everything about it. Whatever handles resources loops over ``KINDS``.

Nouns: ``KINDS`` (known: every kind, found by looking into this package), and the rooms of ``base``: ``Kind``,
``Resource``, ``View``. A file of this package holds the models of one kind and its ``Kind`` value as ``KIND``: a new
file is a new kind, and nothing else in control changes. Pure: no I/O, no clock. Knows ``control.wire``; imported by
``control.registry``, ``control.watch``, ``control.api`` and ``control.cli``.
"""
