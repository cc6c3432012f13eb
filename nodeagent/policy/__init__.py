"""Who may connect to whom: the one evaluator of AuthorizationPolicies (layer 4), with Istio's
semantics. Pure.

Nouns: ``Connection`` (connection: the four facts that are judged), ``PolicyCache`` (compile: wire
policies made ready to match), ``evaluate`` (evaluate: returns a ``Permit`` or a ``Denial``; only it
makes permits, and nothing is dialled without one), ``explain`` (explain: which policy, rule and
list decided, by the same evaluator), ``effective_mode`` (plaintext: how a port treats clients
without an identity), ``Authorizer`` (authorizer: the same questions about a workload, over the read
model).
Imported by ``doctor``, ``flows``, ``manager``, ``relay``, ``worker``.
"""
