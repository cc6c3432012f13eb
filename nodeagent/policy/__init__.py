"""Who may connect to whom: the one evaluator of AuthorizationPolicies (L4), with Istio's semantics. Pure.

Nouns: ``Connection`` (the four facts that are judged), ``PolicyCache`` (compile: wire policies made ready to match),
``evaluate() -> Permit | Denial`` (evaluate: only it makes permits, and nothing is dialled without one),
``explain()`` (which policy, rule and list decided, by the same evaluator), ``effective_mode()`` (plaintext: how a port
meets clients without an identity).
Imported by relay, worker, admin, cli; imports ``control.wire``, ``nodeagent.reasons``, ``nodeagent.state.targets``.
"""
