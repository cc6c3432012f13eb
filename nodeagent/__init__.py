"""The agent of one node: captures the connections of enrolled workloads and carries them, authenticated and authorized.

Rooms: ``loader`` (BPF objects and pins), ``capture`` (who is enrolled, original destinations), ``state`` (the read
model),
``client`` (towards control), ``identity`` (keys, SVIDs, TLS contexts), ``policy`` (the one evaluator), ``relay``
(protocols and the sockets that carry bytes), ``telemetry``, ``admin``, ``manager`` (the parent process). ``reasons``
and
``channel`` are leaves that every room may use. Processes: one manager decides what is known; N workers (``worker``)
decide and carry connections.
"""
