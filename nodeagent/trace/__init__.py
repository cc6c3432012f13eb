"""``nodeagent trace``: what happens to connections in the kernel, event by event, while somebody looks. For debugging;
optional, and the only user of BCC.

Nouns: ``Tracer`` (tracer: the child process that has BCC, and its events), ``Event`` (events: one line of the trace),
``Obstacle`` (obstacles: why this machine cannot trace, and what to install), ``Names`` (names: cgroup ids to
workloads), ``AccessLogTail`` (decisions: what the agent itself says), ``Trace`` (command: the verb). The system's
Python runs ``probe.py``, BCC compiles ``kernel.c``. Imports ``loader`` (pinned maps, read only), ``config`` and
``capture.cgroups``; imported by the CLI only, when the verb is used.
"""
