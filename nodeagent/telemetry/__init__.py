"""Metrics, access log and counters of connections. Every room may call this one; it calls none but
``channel``.

Nouns: ``FlowRecord`` (flow: everything known of one connection), ``FlowMetrics`` (metrics: Istio's
TCP series), ``AccessLog`` (accesslog), ``Aggregate`` (aggregate: the samples of all workers as
one).
Imported by ``flows``, ``main``, ``manager``, ``relay``, ``report``, ``worker``.
"""
