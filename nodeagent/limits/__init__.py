"""Who may use how much of what the agent has: shares, rates and lines, each with an owner who is
refused when it is used up.

Nouns: ``Limits`` (settings: the figures), ``network_of`` (owner: whom an address belongs to),
``Crowd`` (crowd: guests of many owners under one roof), ``Rates`` (rate: so many a second for each
owner), ``Lines`` (lines: log lines of each source, then their sum), ``RecordLimit`` (records: the
same for the process's own log), ``Excess`` (excess: who was refused, counted and named).

Pure but for ``records``. An owner is text: the uid of a workload, a SPIFFE ID, or the network of an
address.
Imported by ``admin``, ``channel``, ``cli``, ``config``, ``dns``, ``flows``, ``main``, ``manager``,
``net``, ``relay``, ``report``, ``telemetry``, ``tunnel``, ``worker``.
"""
