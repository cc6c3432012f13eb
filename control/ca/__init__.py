"""Certificates of the mesh: who may be called what, and for how long.

Nouns: ``Authority`` (issues from requests, pure but for randomness; authority), ``Keys`` (the state directory: root,
intermediate, bundle; keys), ``PeerIdentity`` (who presented a client certificate; peer). Knows ``control.wire`` only;
imported by ``control.api`` and ``control.main``.
"""
