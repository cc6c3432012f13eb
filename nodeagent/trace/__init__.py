"""``nodeagent trace``: what happens to connections in the kernel, event by event, while somebody
watches. For debugging; optional, and the only user of BCC.

Nouns: ``Tracer`` (tracer: the child process that has BCC, and its events), ``TraceEvent`` (events: one
line of the trace), ``Obstacle`` (obstacles: why this machine cannot trace, and what to install),
``WorkloadNames`` (names: from cgroup ids to workloads), ``AccessLogTail`` (decisions: what the agent itself
logs), ``Trace`` (command: the verb). The system's Python runs ``probe.py``; BCC compiles
``kernel.c``. It reads pinned maps and changes nothing.
Imported by ``cli``.
"""
