"""Control over HTTP: for agents (join, certificates, watch) and operators (resources, tokens, status).

Nouns: ``create_app`` (app), ``Context`` (what the handlers work on; context), ``callers`` (who calls, by client
certificate), problem+json errors (problems). One file a group of routes; those of resources (kinds) are made
from ``control.kinds``. Knows ``control.registry``, ``control.watch``, ``control.ca``, ``control.kinds`` and
``control.wire``, never the store; imported by ``control.main``.
``openapi.json`` is the API's description, checked in.
"""
