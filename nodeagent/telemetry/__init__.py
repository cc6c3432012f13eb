"""What is told about connections: metrics, the access log, counters. Everyone calls this room; it calls nobody.

Nouns: ``FlowRecord`` (all that is known of one connection), ``FlowMetrics`` (Istio's TCP series), ``AccessLog``.
Imports: ``control.wire`` and ``nodeagent.reasons`` only.
"""
