"""Metrics, access log and counters of connections. Every room that knows connections may call this one.

Nouns: ``FlowRecord`` (flow: everything known of one connection), ``FlowMetrics`` (metrics: one worker's
series: Istio's TCP metrics, histograms, errors), ``Sample`` (samples: the value of one series, a counter, gauge or
histogram), ``Aggregate`` (aggregate: the samples of all workers as one), ``AccessLog`` (accesslog). Samples become
text for scrapers in ``exposition``.
Imported by ``channel``, ``flows``, ``main``, ``manager``, ``relay``, ``report``, ``worker``.
"""
