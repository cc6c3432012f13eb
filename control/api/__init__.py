"""Control over HTTP: for agents (join, certificates, watch) and operators (resources, tokens, status).

Nouns: ``create_app`` (app), ``Context`` (what the handlers work on; context), ``callers`` (who calls, by client
certificate), problem+json errors (problems). One file per resource group. Knows ``control.registry``,
``control.watch``, ``control.ca`` and ``control.wire``, never the store; imported by ``control.main``.
``openapi.json`` is the API's description, checked in.
"""
