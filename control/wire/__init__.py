"""The contract between control and its agents: data, validation of data, and its JSON form. Nothing else.

Nouns: ``SpiffeId`` (ids), ``SocketAddress`` (address), ``Workload`` / ``Service`` / ``AuthorizationPolicy`` /
``TrustBundle`` / ``MeshSettings`` (discovery), the labels that say something about live flows (governed), ``Batch``
(watch), the request and answer bodies of joining and signing (signing). Standard library only; anyone may import it; it
imports nobody. Evaluation of policy is not here: there is one evaluator and it lives in ``nodeagent.policy``.
"""
